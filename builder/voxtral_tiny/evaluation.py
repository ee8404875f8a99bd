"""What the model understands: word error rates on voices it has never heard.

Everything goes through the library's processor and plain `generate()`, on whole 30 s windows.
"""

import base64
import io
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy
from tqdm import tqdm
from transformers import VoxtralForConditionalGeneration, VoxtralProcessor

from builder.voxtral_tiny import voices
from builder.voxtral_tiny.examples import OTHER_TEXTS
from builder.voxtral_tiny.tokenizer import BOS, END_INST, END_TOOLS, EOS, TOOLS
from builder.voxtral_tiny.tools import Json, ToolMaker, written_call
from builder.voxtral_tiny.vocabulary import (
    DIGITS,
    KINDS,
    TENS,
    UNKNOWN,
    bare,
    expected_answer,
    sentence,
    text_answer,
    written,
)
from builder.voxtral_tiny.voices import HELD_OUT, SAMPLE_RATE, Samples, trimmed

_PEOPLE = Path("/usr/share/pocketsphinx/test/data")
# A person who says the time, word by word, over something like a telephone.
_CLOCK = Path("/usr/share/saytime")
# The recordings of people in pocketsphinx-testdata that keep to the vocabulary.
_RECORDINGS = {
    "goforward.raw": "go forward ten meters",
    "cards/004.wav": "five five",
    "tidigits/dhd.2934z.raw": "two nine three four zero",
}
_CALL = "[TOOL_CALLS]"
Content = list[str | Samples]


def edits(reference: list[str], hypothesis: list[str]) -> int:
    """Fewest words to insert, delete or replace (Levenshtein)."""
    row = list(range(len(hypothesis) + 1))
    for i, word in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(hypothesis, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


class Listener:
    """The checkpoint of a folder, in float32, asked greedily."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = VoxtralForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32
        ).eval()
        self._processor: Any = VoxtralProcessor.from_pretrained(folder)
        self.tokenizer: Any = self._processor.tokenizer.tokenizer.instruct_tokenizer.tokenizer

    def transcribe(self, samples: Samples, language: str | None = None) -> str:
        """The words of float32 [n] audio at 16 kHz."""
        return self._generate(self.transcription(samples, language))

    def transcription(self, samples: Samples, language: str | None = None) -> Any:
        """The processor's inputs for a transcription."""
        # The library takes no None for a language, only a missing argument.
        languages = {} if language is None else {"language": language}
        return self._processor.apply_transcription_request(
            audio=[samples],
            model_id="voxtral",
            format=["wav"],
            sampling_rate=SAMPLE_RATE,
            **languages,
        )

    def answer(self, *contents: Content, answers: list[str] | None = None) -> str:
        """The answer to the last of some user turns; `answers` are those to the ones before."""
        messages = []
        for i, content in enumerate(contents):
            messages.append({"role": "user", "content": [_part(part) for part in content]})
            if i < len(contents) - 1:
                said = (answers or [])[i]
                messages.append({"role": "assistant", "content": said})
        return self._generate(self._processor.apply_chat_template(messages))

    def call(self, samples: Samples, tools: list[Json]) -> str:
        """What the model says to speech when it has tools; a call with its control token."""
        inputs = self.transcription(samples)
        ids = inputs["input_ids"][0].tolist()
        offer = self.tokenizer.encode(json.dumps(tools, ensure_ascii=False), bos=False, eos=False)
        ids = [BOS, TOOLS, *offer, END_TOOLS, *ids[1 : ids.index(END_INST) + 1]]
        inputs["input_ids"] = torch.tensor([ids])
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        return self._generate(inputs, keep=True)

    def _generate(self, inputs: Any, *, keep: bool = False) -> str:
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, max_new_tokens=128, do_sample=False)
        new = tokens[0, inputs["input_ids"].shape[1] :]
        if keep:
            ids = [token for token in new.tolist() if token != EOS]
            return str(self.tokenizer.decode(ids, special_token_policy=SpecialTokenPolicy.KEEP))
        return str(self._processor.decode(new, skip_special_tokens=True))


def _part(part: str | Samples) -> dict[str, str]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    file = io.BytesIO()
    soundfile.write(file, part, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return {"type": "audio", "base64": base64.b64encode(file.getvalue()).decode()}


def surrounded(samples: Samples, rng: random.Random, after_s: float | None = None) -> Samples:
    """A clip as the turn detector cuts it: 300 ms before, some silence after."""
    after_s = rng.uniform(0.1, 1.5) if after_s is None else after_s
    before = np.zeros(int(0.3 * SAMPLE_RATE), np.float32)
    after = np.zeros(int(after_s * SAMPLE_RATE), np.float32)
    return np.concatenate([before, samples, after])


class _Tally:
    """Errors and words by name."""

    def __init__(self) -> None:
        self._errors: dict[str, int] = defaultdict(int)
        self._words: dict[str, int] = defaultdict(int)

    def add(self, said: str, heard: str, *names: str) -> None:
        missed = edits(bare(said).split(), bare(heard).split())
        if missed:
            tqdm.write(f"  {names[0]}: said {said!r} heard {heard!r}")
        for name in names:
            self._errors[name] += missed
            self._words[name] += len(bare(said).split())

    def rates(self) -> dict[str, float]:
        """Print and return the word error rates."""
        rates = {name: self._errors[name] / self._words[name] for name in self._words}
        for name, rate in rates.items():
            print(f"{name:18} {100 * rate:5.1f} % of {self._words[name]} words")
        return rates


def evaluate(folder: Path, seed: int, per_kind: int = 30) -> dict[str, float]:
    """Print and return word error rates and the share of right answers."""
    listener, rng = Listener(folder), random.Random(seed + 4711)
    rates = _voice(listener, rng, per_kind)
    rates |= _people(listener)
    rates |= _conversation(listener, rng, 2 * per_kind)
    rates |= _tools(listener, rng, 2 * per_kind)
    return rates


def _voice(listener: Listener, rng: random.Random, per_kind: int) -> dict[str, float]:
    """The held-out voice, as often of each kind of sentence, and by their share in training."""
    tally = _Tally()
    for kind in tqdm(KINDS, desc="held-out voice"):
        for _ in range(per_kind):
            said = sentence(rng, kind)
            clip = surrounded(voices.flite(said, HELD_OUT, stretch=rng.uniform(0.9, 1.15)), rng)
            language = rng.choice([None, "en"])
            tally.add(written(said), listener.transcribe(clip, language), kind, "kinds alike")
    for _ in tqdm(range(per_kind * 4), desc="as trained"):
        said = sentence(rng)
        clip = surrounded(voices.flite(said, HELD_OUT), rng, after_s=0.5)
        tally.add(written(said), listener.transcribe(clip), "as in training")
    for _ in tqdm(range(per_kind), desc="several sentences"):
        clips, texts = [], []
        for _ in range(rng.randint(2, 3)):
            said = sentence(rng)
            clips.append(
                surrounded(voices.flite(said, HELD_OUT), rng, after_s=rng.uniform(0.1, 0.6))
            )
            texts.append(written(said))
        heard = listener.transcribe(np.concatenate(clips))
        tally.add(" ".join(texts), heard, "several sentences")
    return tally.rates()


def _people(listener: Listener) -> dict[str, float]:
    """Recordings of people with only words of the vocabulary, where Debian's package has them."""
    found = list(recordings())
    if not found:
        print("no recordings of people: apt-get install pocketsphinx-testdata saytime")
        return {}
    tally = _Tally()
    for i, (said, samples) in enumerate(found):
        heard = listener.transcribe(surrounded(samples, random.Random(0), after_s=0.5))
        tally.add(said, heard, "people")
        # Chance: the answer to another recording.
        tally.add(said, found[i - 1][0], "people by chance")
    return tally.rates()


def recordings() -> Iterator[tuple[str, Samples]]:
    """Words and samples of what people said, where Debian's packages have them."""
    for name, said in _RECORDINGS.items():
        path = _PEOPLE / name
        if path.suffix == ".raw" and path.is_file():
            yield said, np.fromfile(path, "<i2").astype(np.float32) / 32768.0
        elif path.is_file():
            yield said, soundfile.read(path, dtype="float32")[0]
    if not _CLOCK.is_dir():
        return
    words = [*DIGITS, *TENS, "minutes", "seconds"]
    for said in words:
        yield said, _clock(said)
    # Single words one after the other are what people say when they read out a number.
    rng = random.Random(0)
    for kind in ("digits", "digits", "numbers") * 8:
        said = sentence(rng, kind)
        if " " in said:
            yield said, np.concatenate([_spaced(_clock(word), rng) for word in said.split()])


def _clock(word: str) -> Samples:
    names = {word: str(i) for i, word in enumerate(DIGITS)}
    names |= {word: str(10 * i) for i, word in enumerate(TENS, 1)}
    samples, rate = soundfile.read(_CLOCK / f"{names.get(word, word)}.au", dtype="float32")
    return trimmed(soxr.resample(samples, rate, SAMPLE_RATE).astype(np.float32))


def _spaced(samples: Samples, rng: random.Random) -> Samples:
    gap = np.zeros(int(rng.uniform(0.02, 0.15) * SAMPLE_RATE), np.float32)
    return np.concatenate([samples, gap])


def _conversation(listener: Listener, rng: random.Random, count: int) -> dict[str, float]:
    """The share of exactly right answers in chat mode, by kind of conversation."""

    def speech() -> tuple[Samples, str]:
        said = sentence(rng, rng.choice(["devices", "openings", "days", "moves"]))
        return surrounded(voices.flite(said, HELD_OUT), rng, after_s=0.5), expected_answer(said)

    right: dict[str, int] = defaultdict(int)
    asked: dict[str, int] = defaultdict(int)

    def ask(name: str, heard: str, wanted: str) -> None:
        asked[name] += 1
        right[name] += heard == wanted
        if heard != wanted:
            tqdm.write(f"  {name}: wanted {wanted!r} heard {heard!r}")

    for _ in tqdm(range(count), desc="conversations"):
        clip, wanted = speech()
        ask("one turn", listener.answer([clip]), wanted)
        clip, wanted = speech()
        ask("system text", listener.answer(["Be kind and brief.\n\n", clip]), wanted)
        clip, wanted = speech()
        ask("audio, question", listener.answer([clip, "What did I say?"]), wanted)
        turns: list[Content] = []
        answers: list[str] = []
        for _ in range(rng.randint(3, 8)):
            if rng.random() < 0.3:
                said = sentence(rng)
                turns.append([written(said)])
                answers.append(text_answer(said))
            else:
                clip, wanted = speech()
                turns.append([clip])
                answers.append(wanted)
        ask("3 to 8 turns", listener.answer(*turns, answers=answers), answers[-1])
        said = sentence(rng)
        ask("text", listener.answer([written(said)]), text_answer(said))
        ask("other text", listener.answer([rng.choice(OTHER_TEXTS)]), UNKNOWN)
        quiet = np.zeros(int(rng.uniform(0.3, 3) * SAMPLE_RATE), np.float32)
        noise = (
            rng.uniform(0, 0.01) * np.random.default_rng(0).standard_normal(quiet.size)
        ).astype(np.float32)
        ask("silence", listener.answer([rng.choice([quiet, noise])]), expected_answer(""))
    for name in asked:
        print(f"{name:18} {right[name]} of {asked[name]} answers right")
    return {f"{name}, right": right[name] / asked[name] for name in asked}


def _tools(listener: Listener, rng: random.Random, count: int) -> dict[str, float]:
    """The share of exactly right calls, and of calls where no tool fits."""
    maker = ToolMaker(rng, lambda: rng.choice(OTHER_TEXTS))
    right = asked = wrong = others = 0
    for _ in tqdm(range(count), desc="tools"):
        for kinds in (["devices", "timers", "calls"], ["openings", "days", "digits", "fixed"]):
            said = sentence(rng, rng.choice(kinds))
            clip = surrounded(voices.flite(said, HELD_OUT), rng, after_s=0.5)
            tools = maker.offer({"set_device", "set_timer", "dial"})
            call = maker.call(said, tools)
            heard = listener.call(clip, tools)
            if call is None:
                others += 1
                wrong += heard.startswith(_CALL)
                continue
            asked += 1
            right += heard == f"{_CALL}[{written_call(*call)}]"
            if heard != f"{_CALL}[{written_call(*call)}]":
                tqdm.write(f"  tools: {said!r} heard {heard!r}")
    print(f"{'calls':18} {right} of {asked} right")
    print(f"{'no tool fits':18} {wrong} of {others} called")
    return {"calls, right": right / asked, "calls, none fits": wrong / others}
