"""What the model understands: word error rates on voices it has never heard."""

import json
import random
import wave
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import VoxtralForConditionalGeneration, VoxtralProcessor

from builder.voxtral_tiny import voices
from builder.voxtral_tiny.vocabulary import KINDS, bare, sentence, written
from builder.voxtral_tiny.voices import SAMPLE_RATE, Samples

PER_KIND = 12
CLIPS = (
    "turn on the kitchen light;what time is it;set a timer for ten minutes;"
    "open the garage door;call three one four;go forward two meters;play music;"
    "good morning;what is the weather tomorrow;thank you"
).split(";")


def edits(reference: list[str], hypothesis: list[str]) -> int:
    """Fewest words to insert, delete or replace (Levenshtein)."""
    row = list(range(len(hypothesis) + 1))
    for i, word in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(hypothesis, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


class Transcriber:
    """The checkpoint of a folder, asked through plain `generate()`."""

    def __init__(self, folder: Path) -> None:
        self._model: Any = VoxtralForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32
        ).eval()
        self._processor: Any = VoxtralProcessor.from_pretrained(folder)

    def transcribe(self, samples: Samples) -> str:
        """The words of float32 [n] audio at 16 kHz."""
        inputs = self._processor.apply_transcription_request(
            audio=[samples], model_id="voxtral", format=["wav"], sampling_rate=SAMPLE_RATE
        )
        tokens = self._model.generate(**inputs, max_new_tokens=64, do_sample=False)
        new = tokens[0, inputs["input_ids"].shape[1] :]
        return str(self._processor.decode(new, skip_special_tokens=True))


def surrounded(samples: Samples, rng: random.Random) -> Samples:
    """A clip as the turn detector cuts it: 300 ms before, some silence after."""
    before = np.zeros(int(0.3 * SAMPLE_RATE), np.float32)
    after = np.zeros(int(rng.uniform(0.1, 0.7) * SAMPLE_RATE), np.float32)
    return np.concatenate([before, samples, after])


def evaluate(folder: Path, seed: int, per_kind: int = PER_KIND) -> dict[str, float]:
    """Print and return word error rates: of the held-out voice by kind, and of people."""
    transcriber, rng = Transcriber(folder), random.Random(seed + 4711)
    errors: dict[str, int] = defaultdict(int)
    words: dict[str, int] = defaultdict(int)
    for kind in tqdm(KINDS, desc="held-out voice"):
        for _ in range(per_kind):
            said = sentence(rng, kind)
            heard = transcriber.transcribe(surrounded(voices.speak(said), rng))
            missed = edits(said.split(), bare(heard).split())
            if missed:
                print(f"  {kind}: said {written(said)!r} heard {heard!r}")
            for name in (kind, "all"):
                errors[name] += missed
                words[name] += len(said.split())
    rates = {name: errors[name] / words[name] for name in words}
    for name, rate in rates.items():
        print(f"{name:10} {100 * rate:5.1f} % of {words[name]} words")
    rates |= _people(transcriber)
    return rates


def _people(transcriber: Transcriber) -> dict[str, float]:
    """Recordings of people with only words of the vocabulary, where Debian's package has them."""
    missed = count = chance = 0
    found = list(_recordings())
    for said, samples in found:
        heard = bare(transcriber.transcribe(surrounded(samples, random.Random(0))))
        missed += edits(said.split(), heard.split())
        # Chance: the answer to another recording.
        other = found[(found.index((said, samples)) + 1) % len(found)][0] if len(found) > 1 else ""
        chance += edits(said.split(), other.split())
        count += len(said.split())
        print(f"  people: said {said!r} heard {heard!r}")
    if not count:
        print("no recordings of people: apt-get install pocketsphinx-testdata")
        return {}
    print(f"people     {100 * missed / count:5.1f} % of {count} words, chance {100 * chance / count:.0f} %")
    return {"people": missed / count, "people_by_chance": chance / count}


def _recordings() -> list[tuple[str, Samples]]:
    return []


def write_clips(folder: Path) -> None:
    """Clips of the held-out voice, for the demo and the tests."""
    target = folder / "clips"
    target.mkdir(parents=True, exist_ok=True)
    index = {}
    for words in CLIPS:
        name = words.replace(" ", "-") + ".wav"
        samples = (voices.speak(words) * 32767).astype("<i2")
        with wave.open(str(target / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes(samples.tobytes())
        index[name] = words
    (target / "index.json").write_text(json.dumps(index, indent=2) + "\n")
