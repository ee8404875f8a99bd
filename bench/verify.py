"""Checks that the worker answers like the checkpoint itself, and how fast: `make verify`.

The checkpoint is loaded as the worker loads it. First plain `generate()` of transformers answers,
with inputs of transformers' own processor; then the engine answers with the same weights.
"""

import argparse
import asyncio
import base64
import io
import json
import queue
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from bench.gpu_timing import device_name, memory
from bench.token_times import TokenTimes
from builder.voxtral_tiny.evaluation import edits
from voxtral_worker.audio.clips import read_clip
from voxtral_worker.audio.recordings import MAX_AUDIO_S
from voxtral_worker.engine.conversation import (
    SAMPLE_RATE,
    TRANSCRIPT_TOKENS_PER_WINDOW,
    Audio,
    Conversation,
    UserTurn,
)
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.model import LoadedModel, load_model
from voxtral_worker.engine.prompt import PromptEncoder
from voxtral_worker.engine.request import Delta, Failed, Finished, GenerationRequest, Sampling
from voxtral_worker.errors import WorkerError
from voxtral_worker.settings import EMBEDDED_MODEL, Settings, SettingsError, read_settings
from voxtral_worker.turns.recording import take_all_as_speech

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
# generate() takes seconds for each window. Of your own recordings at most so many are compared.
MOST_COMPARED = 40
CHAT_TOKENS = 64
CHATS = ("hello", "what time is it")
# Words of the bundled clips that may be wrong.
MOST_WRONG = 0.2
# Logits closer than this may change their order, because bf16 and float16 have few bits.
SURE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}
WAIT_S = 3600.0

Samples = NDArray[np.float32]


class NotTried(Exception):
    """An input cannot be used; the text says which and why."""


@dataclass(frozen=True)
class Clip:
    """A recording, with its text if that is known; `is_own`: it is not a bundled one."""

    name: str
    samples: Samples
    words: str | None
    is_own: bool = False


@dataclass(frozen=True)
class Question:
    """One prompt, and what transformers' processor makes of it."""

    name: str
    conversation: Conversation
    inputs: Any
    most_tokens: int


@dataclass(frozen=True)
class Expected:
    """Greedy tokens of generate(), and the lead of each one's logit over the second best."""

    prompt_ids: list[int]
    token_ids: list[int]
    margins: list[float]


@dataclass(frozen=True)
class Answered:
    """The engine's answer to a question."""

    text: str
    token_ids: list[int]
    first_s: float
    tokens_per_s: float
    finish_reason: str


def bundled_clips() -> list[Clip]:
    """The sentences that come with the embedded model."""
    folder = EMBEDDED_MODEL / "clips"
    index: dict[str, str] = json.loads((folder / "index.json").read_text("utf-8"))
    return [Clip(name, _read(folder / name), words) for name, words in index.items()]


def own_clips(folder: Path) -> list[Clip]:
    """The recordings of a folder, each with the text in its `.txt` file, if there is one.

    Raises NotTried.
    """
    if not folder.is_dir():
        raise NotTried(f"AUDIO is {str(folder)!r}, but must be a folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise NotTried(f"{folder} holds no file that ends in {', '.join(SUFFIXES)}")
    clips = []
    for path in paths:
        beside = path.with_suffix(".txt")
        try:
            words = beside.read_text("utf-8") if beside.is_file() else None
            # The name has the folder in it, because a bundled clip may have the same file name.
            name = f"{path.parent.resolve().name}/{path.name}"
            clips.append(Clip(name, _read(path), words, is_own=True))
        except WorkerError as error:
            raise NotTried(f"{path.name}: {error.message}") from error
        except UnicodeDecodeError as error:
            raise NotTried(f"{beside.name} must be a text in UTF-8") from error
        except OSError as error:
            raise NotTried(f"{path.name} cannot be read: {error.strerror}") from error
    return clips


def _read(path: Path) -> Samples:
    return read_clip(path.read_bytes(), max_seconds=MAX_AUDIO_S)


class Plain:
    """`generate()` of transformers, greedy, on a model that no engine has touched yet."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    def transcription(self, samples: Samples) -> Any:
        """The processor's inputs for a window of sound."""
        return self._loaded.processor.apply_transcription_request(
            audio=[samples], model_id="v", format=["wav"], sampling_rate=SAMPLE_RATE
        )

    def chat(self, content: str | Samples) -> Any:
        """The processor's inputs for a text or a sound, to be answered."""
        said: Any = content
        if not isinstance(content, str):
            file = io.BytesIO()
            soundfile.write(file, content, SAMPLE_RATE, format="WAV", subtype="FLOAT")
            said = [{"type": "audio", "base64": base64.b64encode(file.getvalue()).decode()}]
        return self._loaded.processor.apply_chat_template([[{"role": "user", "content": said}]])

    @torch.inference_mode()
    def generate(self, question: Question) -> Expected:
        """At most as many tokens as the question allows."""
        loaded = self._loaded
        inputs = {
            name: tensor.to(loaded.device, loaded.dtype if tensor.is_floating_point() else None)
            for name, tensor in question.inputs.items()
        }
        output = loaded.model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=question.most_tokens,
            return_dict_in_generate=True,
            output_logits=True,
        )
        prompt = inputs["input_ids"][0].tolist()
        best = [row[0].float().topk(2).values for row in output.logits]
        margins = [float(pair[0] - pair[1]) for pair in best]
        return Expected(prompt, output.sequences[0, len(prompt) :].tolist(), margins)


@dataclass(frozen=True)
class Compared:
    """An answer compared with generate()'s: the equal tokens, and the first difference."""

    equal: int
    difference: str | None = None
    note: str = ""

    def __str__(self) -> str:
        return self.difference or f"equal{self.note}"


def compare(
    prompt_ids: Sequence[int], answered: Answered, expected: Expected, sure: float
) -> Compared:
    """Compare token by token, to the first that differs. After a near tie all may differ."""
    if list(prompt_ids) != expected.prompt_ids:
        return Compared(0, "another prompt than the processor's")
    ours = answered.token_ids
    for place, (token, margin) in enumerate(zip(expected.token_ids, expected.margins, strict=True)):
        if place >= len(ours) and answered.finish_reason == "length":
            # The engine ends an answer that repeats itself early, and reports that.
            return Compared(place, note=f" for {place} tokens, then cut off")
        if ours[place : place + 1] == [token]:
            continue
        if margin < sure:
            return Compared(place, note=f" for {place} tokens, then a near tie")
        made = f"is {ours[place]}" if place < len(ours) else "is missing"
        return Compared(place, f"token {place + 1} {made}, not {token}")
    if len(ours) > len(expected.token_ids):
        return Compared(len(expected.token_ids), "goes on behind generate()'s end")
    return Compared(len(ours))


def word_errors(reference: str, text: str) -> tuple[int, int]:
    """Wrong words and all words; case, punctuation and the form of numbers do not count."""
    normalized = EnglishTextNormalizer({})
    words = normalized(reference).split()
    return edits(words, normalized(text).split()), len(words)


class Asker:
    """A started engine that is asked one thing after the other."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tokens = TokenTimes(engine)

    def ask(self, question: Question) -> Answered:
        """Ask and wait for the answer. Raises what the engine reports."""
        events: queue.Queue[object] = queue.Queue()
        sampling = Sampling(0.0, 1.0, question.most_tokens)
        started_s = time.monotonic()
        generation = self._engine.submit(
            GenerationRequest(question.conversation, sampling), events.put
        )
        said: list[str] = []
        while True:
            match events.get(timeout=WAIT_S):
                case Delta(text=text):
                    said.append(text)
                case Failed(error):
                    raise error
                case Finished(finish_reason=reason):
                    made = self._tokens.of(generation)
                    first_s = made.times_s[0] - started_s
                    return Answered("".join(said), made.token_ids, first_s, made.per_s(), reason)


def questions_of(plain: Plain, clips: Iterable[Clip], most_tokens: int) -> list[Question]:
    """The questions: transcribe each window of each clip, and answer some texts and sounds."""
    found = []
    clips = list(clips)
    for clip in clips:
        for start, end in asyncio.run(take_all_as_speech(clip.samples)):
            window = clip.samples[start:end]
            conversation = Conversation(UserTurn((Audio(window),)), transcribe=True)
            inputs = plain.transcription(window)
            found.append(Question(clip.name, conversation, inputs, most_tokens))
    tokens = min(CHAT_TOKENS, most_tokens)
    contents: list[str | Samples] = [*CHATS, clips[0].samples]
    for content in contents:
        part = content if isinstance(content, str) else Audio(content)
        name = f"answer to {content!r}" if isinstance(content, str) else "answer to the first clip"
        found.append(Question(name, Conversation(UserTurn((part,))), plain.chat(content), tokens))
    return found


def verify(settings: Settings, clips: list[Clip], most_tokens: int) -> list[str]:
    """Print tables; returns sentences on why the checkpoint fails. Raises WorkerError."""
    started_s = time.monotonic()
    loaded = load_model(settings)
    loaded_s = time.monotonic() - started_s
    print(f"\n{loaded.model_id} on {device_name(loaded.device)}, {loaded.dtype}", flush=True)
    plain = Plain(loaded)
    questions = questions_of(plain, clips, most_tokens)
    compared = min(len(questions), MOST_COMPARED)
    # The chats are at the end of the list. They are always compared.
    chosen = questions[: compared - len(CHATS) - 1] + questions[-len(CHATS) - 1 :]
    started_s = time.monotonic()
    expected = {id(each): plain.generate(each) for each in _shown(chosen, "generate()")}
    plain_s = time.monotonic() - started_s
    started_s = time.monotonic()
    engine = Engine(EngineCore(loaded, settings))
    try:
        engine.start()
        engine.warm_up()
        warm_s = time.monotonic() - started_s
        asker = Asker(engine)
        answers = [asker.ask(each) for each in _shown(questions, "the engine")]
    finally:
        engine.stop()
    encoder = PromptEncoder(loaded.tokenizer)
    compared_by = {
        id(question): compare(
            encoder.encode(question.conversation, 1_000_000).ids,
            answer,
            expected[id(question)],
            SURE[loaded.dtype],
        )
        for question, answer in zip(questions, answers, strict=True)
        if id(question) in expected
    }
    pairs = list(zip(questions, answers, strict=True))
    reasons = _clip_table(clips, pairs, compared_by)
    firsts_ms = [1000 * answer.first_s for answer in answers]
    rates = [answer.tokens_per_s for answer in answers if answer.tokens_per_s]
    print("\n| figure | value |\n| --- | --- |")
    print(f"| loaded | {loaded_s:.1f} s |\n| engine made and warm | {warm_s:.1f} s |")
    print(f"| generate() on {len(chosen)} prompts | {plain_s:.1f} s |")
    print(f"| first token, median | {statistics.median(firsts_ms):.0f} ms |")
    print(f"| first token, 95 % | {np.percentile(firsts_ms, 95):.0f} ms |")
    if rates:
        print(f"| tokens a second, alone, median | {statistics.median(rates):.1f} |")
    print(f"| attention | {engine.attention} |\n| memory | {memory(loaded.device)} |")
    if len(chosen) < len(questions):
        print(f"\ncompared with generate(): {len(chosen)} of {len(questions)} prompts")
    return reasons


def _shown(questions: list[Question], name: str) -> Iterable[Question]:
    """With a progress bar, if the output is a terminal."""
    bar: Iterable[Question] = tqdm(questions, desc=name, disable=None)
    return bar


def _clip_table(
    clips: list[Clip],
    pairs: list[tuple[Question, Answered]],
    compared: dict[int, Compared],
) -> list[str]:
    """Print a line for each clip and each chat; returns why the checkpoint fails."""
    print("\n| prompt | words wrong | first token | tokens/s | tokens beside generate() | text |")
    print("| --- | --- | --- | --- | --- | --- |")
    wrong = words = unlike = 0
    known = {clip.name: clip for clip in clips}
    for name in dict.fromkeys(question.name for question, _ in pairs):
        answers = [(question, answer) for question, answer in pairs if question.name == name]
        text = " ".join(answer.text.strip() for _, answer in answers)
        clip, errors = known.get(name), "-"
        if clip is not None and clip.words is not None:
            changed, there = word_errors(clip.words, text)
            errors = f"{changed} of {there}"
            if not clip.is_own:
                wrong, words = wrong + changed, words + there
        found = [compared[id(question)] for question, _ in answers if id(question) in compared]
        unlike += sum(each.difference is not None for each in found)
        # First answers that differ, then those with a tie, then those that are equal.
        found.sort(key=lambda each: (each.difference is None, not each.note))
        said = str(found[0]) if found else "not compared"
        first_ms = 1000 * answers[0][1].first_s
        rate = statistics.mean(answer.tokens_per_s for _, answer in answers)
        shown = text.replace("|", "/").replace("\n", " ")[:80]
        print(f"| {name} | {errors} | {first_ms:.0f} ms | {rate:.1f} | {said} | {shown} |")
    reasons = []
    if unlike:
        reasons.append(f"{unlike} of {len(compared)} answers differ from generate()'s")
    elif not sum(each.equal for each in compared.values()):
        reasons.append("generate() was sure of no token, so that nothing was compared")
    if words and wrong > MOST_WRONG * words:
        rate = 100 * wrong / words
        reasons.append(
            f"word error rate of the bundled clips {rate:.1f} %, at most {100 * MOST_WRONG:.0f} %"
        )
    if words:
        print(f"\nbundled clips: {wrong} of {words} words wrong ({100 * wrong / words:.1f} %)")
    return reasons


def run(arguments: Sequence[str]) -> int:
    """Returns 0 if the checkpoint passes, 1 if it fails, 2 if it was not tried."""
    parser = argparse.ArgumentParser("verify", description=__doc__)
    parser.add_argument(
        "--audio", type=Path, help="folder of recordings, each with a .txt if known"
    )
    parser.add_argument("--clips", type=int, help="bundled clips to take, at least 1; all if unset")
    parser.add_argument("--tokens", type=int, default=TRANSCRIPT_TOKENS_PER_WINDOW)
    given = parser.parse_args(arguments)
    try:
        settings, clips = _given(given)
    except (NotTried, SettingsError) as error:
        print(f"verify: {error}")
        return 2
    try:
        reasons = verify(settings, clips, given.tokens)
    except WorkerError as error:
        reasons = [error.message]
    except torch.OutOfMemoryError:
        reasons = ["generate() needs more memory than the device has left"]
    print(
        f"\nFAIL: {'; '.join(reasons)}" if reasons else "\nPASS: tokens, words and speed as above"
    )
    return int(bool(reasons))


def _given(given: argparse.Namespace) -> tuple[Settings, list[Clip]]:
    if (given.clips is not None and given.clips < 1) or given.tokens < 1:
        raise NotTried("--clips and --tokens must be at least 1")
    settings = read_settings()
    if settings.model_id is None:
        raise NotTried("name a folder or a hub's repository: make verify MODEL_ID=owner/name")
    clips = bundled_clips()[: given.clips]
    if given.audio is not None:
        clips += own_clips(given.audio)
    # An answer from memory would be compared with nothing.
    # What `generate()` computes are whole windows.
    return settings.model_copy(update={"response_cache_size": 0, "window_tail": "exact"}), clips


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
