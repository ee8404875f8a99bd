"""Whether the worker answers as a checkpoint itself does, and how fast: `make verify`.

The checkpoint is loaded as the worker loads it. Plain `generate()` of transformers, on what
its own processor makes, is asked first, with the very weights that the engine then gets.
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
from dataclasses import dataclass, replace
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
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.model import LoadedModel, load_model
from voxtral_worker.engine.prompt import PromptEncoder
from voxtral_worker.engine.request import Delta, Failed, Finished, GenerationRequest, Sampling
from voxtral_worker.errors import WorkerError
from voxtral_worker.settings import EMBEDDED_MODEL, Settings, SettingsError, read_settings
from voxtral_worker.turns.recording import take_all_as_speech

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
# generate() takes seconds a window: what is compared of somebody's own recordings ends here.
MOST_COMPARED = 40
CHAT_TOKENS = 64
CHATS = ("hello", "what time is it")
# Words of the bundled clips that may be wrong.
MOST_WRONG = 0.2
# Logits nearer to each other than this may change places: bf16 and float16 keep few bits.
SURE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}
WAIT_S = 3600.0

Samples = NDArray[np.float32]


class NotTried(Exception):
    """Something that was given cannot be used; the text says what."""


@dataclass(frozen=True)
class Clip:
    """A recording, and what is said in it where that is known; `is_own`: not a bundled one."""

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
    """Greedy tokens by generate(), and how far each one's logit was before the second best."""

    prompt_ids: list[int]
    token_ids: list[int]
    margins: list[float]


@dataclass(frozen=True)
class Answered:
    """What the engine made of a question."""

    text: str
    token_ids: list[int]
    first_s: float
    tokens_per_s: float
    finish_reason: str


def bundled_clips() -> list[Clip]:
    """The sentences that lie beside the embedded model."""
    folder = EMBEDDED_MODEL / "clips"
    index: dict[str, str] = json.loads((folder / "index.json").read_text("utf-8"))
    return [Clip(name, _read(folder / name), words) for name, words in index.items()]


def own_clips(folder: Path) -> list[Clip]:
    """The recordings of a folder, with the text that lies beside each as `.txt`, if any.

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
            # With its folder: a bundled clip may have the same name.
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
        """The processor's inputs for a text or a sound that is to be answered."""
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
    """An answer beside generate()'s: equal tokens, and where it differs or why no more counts."""

    equal: int
    difference: str | None = None
    note: str = ""

    def __str__(self) -> str:
        return self.difference or f"equal{self.note}"


def compare(
    prompt_ids: Sequence[int], answered: Answered, expected: Expected, sure: float
) -> Compared:
    """Token by token, to the first that differs; from a near tie on everything may differ."""
    if list(prompt_ids) != expected.prompt_ids:
        return Compared(0, "another prompt than the processor's")
    ours = answered.token_ids
    for place, (token, margin) in enumerate(zip(expected.token_ids, expected.margins, strict=True)):
        if place >= len(ours) and answered.finish_reason == "length":
            # An answer that runs in circles is ended early, and says so.
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
    """Words to change and words there are, without case, punctuation and ways to write numbers."""
    normalized = EnglishTextNormalizer({})
    words = normalized(reference).split()
    return edits(words, normalized(text).split()), len(words)


class Asker:
    """A started engine that is asked one thing after the other."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tokens = TokenTimes(engine)

    def ask(self, question: Question) -> Answered:
        """Raises what the engine reports."""
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
    """Each window of each clip to be written down, and some things to be answered."""
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
    """Print tables; returns why the checkpoint fails, in sentences. Raises WorkerError."""
    started_s = time.monotonic()
    loaded = load_model(settings)
    loaded_s = time.monotonic() - started_s
    print(f"\n{loaded.model_id} on {device_name(loaded.device)}, {loaded.dtype}", flush=True)
    plain = Plain(loaded)
    questions = questions_of(plain, clips, most_tokens)
    compared = min(len(questions), MOST_COMPARED)
    # The chats stand at the end, and are always compared.
    chosen = questions[: compared - len(CHATS) - 1] + questions[-len(CHATS) - 1 :]
    started_s = time.monotonic()
    expected = {id(each): plain.generate(each) for each in _shown(chosen, "generate()")}
    plain_s = time.monotonic() - started_s
    started_s = time.monotonic()
    engine = Engine(loaded, settings)
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
    """With a bar where somebody looks on."""
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
        # What differs before what does not, and a tie before what is wholly equal.
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
    """0 when the checkpoint passes, 1 when it fails, 2 when it was not tried."""
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
    return replace(settings, response_cache_size=0, window_tail="exact"), clips


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
