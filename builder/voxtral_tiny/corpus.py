"""The synthesized speech that the model is trained on: clips with their words.

Kept in batches of one voice, 16-bit samples and an index, in a work folder outside of git.
"""

import json
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from builder.voxtral_tiny import voices
from builder.voxtral_tiny.vocabulary import DIGITS, KINDS, sentence
from builder.voxtral_tiny.voices import Samples

# Sentences of each voice: many voices first, then those that sound most like people.
VOICES = {
    "espeak": 5000,
    "slt": 1200,
    "slt deepened": 1200,
    "kal16": 900,
    "kal_diphone": 600,
    "ked_diphone": 600,
    "cmu_us_slt_arctic_hts": 500,
    "hibari": 2400,
    "piper": 2400,
}
# What is hardest comes more often: digits, words that stand alone, and what tools are called for.
_WEIGHTS = dict(zip(KINDS, (14, 6, 20, 8, 18, 9, 10, 18, 22), strict=True))
_HARD = 0.12
_BATCH = 100


@dataclass(frozen=True)
class Clip:
    """Speech without silence around it, float32 [n] at 16 kHz."""

    words: str
    voice: str
    samples: Samples


def synthesize(folder: Path, seed: int, scale: float, processes: int = 2) -> None:
    """Make what is missing of the corpus, about five hours at `scale` 1."""
    (folder / "speech").mkdir(parents=True, exist_ok=True)
    jobs: list[tuple[Path, str, int, int]] = []
    for voice, count in VOICES.items():
        for start in range(0, int(count * scale), _BATCH):
            batch = folder / "speech" / f"{voice.replace(' ', '-')}-{start:05}.npy"
            jobs.append((batch, voice, min(_BATCH, int(count * scale) - start), seed + len(jobs)))
    # In any order, so that a part of the corpus has all voices as well.
    random.Random(seed).shuffle(jobs)
    with ProcessPoolExecutor(processes) as pool:
        for _ in tqdm(pool.map(_speak, jobs), total=len(jobs), desc="speech"):
            pass


def load(folder: Path) -> list[Clip]:
    """The corpus as far as it is made; samples are views of mapped files of 16 bits."""
    clips = []
    for path in sorted((folder / "speech").glob("*.json")):
        whole = np.load(path.with_suffix(".npy"), mmap_mode="r")
        index = json.loads(path.read_text())
        clips += [Clip(e["words"], e["voice"], whole[e["start"] : e["stop"]]) for e in index]
    return clips


def _speak(job: tuple[Path, str, int, int]) -> None:
    """Some sentences of one voice: the file, the voice's name, how many, the seed."""
    path, voice, count, seed = job
    if path.with_suffix(".json").is_file():
        return
    rng = random.Random(seed)
    kinds = rng.choices(list(_WEIGHTS), weights=list(_WEIGHTS.values()), k=count)
    sentences = [_hard(rng) if rng.random() < _HARD else sentence(rng, kind) for kind in kinds]
    # Each batch has the digits alone, of which numbers are made that are read out.
    texts = (DIGITS + sentences)[:count]
    spoken = list(_spoken(texts, voice, rng))
    stops = np.cumsum([len(samples) for samples in spoken])
    np.save(path, (np.concatenate(spoken) * 32767).astype(np.int16))
    index = [
        {"words": words, "voice": voice, "start": int(stop) - len(samples), "stop": int(stop)}
        for words, samples, stop in zip(texts, spoken, stops, strict=True)
    ]
    # The index comes last: a batch that has one is whole.
    path.with_suffix(".json").write_text(json.dumps(index))


def _hard(rng: random.Random) -> str:
    """Numbers that sound alike, and digits that come twice."""
    if rng.random() < 0.5:
        amount = rng.choice(["ten", "ten", "two", "twenty", "three", "thirty", "twenty two"])
        patterns = ["set a timer for {} minutes", "set a timer for {} hours", "go back {} steps"]
        patterns += ["set a timer for {} seconds", "{}"]
        return rng.choice(patterns).format(amount)
    digits = [rng.choice(DIGITS) for _ in range(rng.randint(2, 4))]
    at = rng.randrange(len(digits))
    digits[at:at] = [digits[at]] * rng.choice([1, 1, 2])
    return f"call {' '.join(digits[:5])}" if len(digits) > 2 else " ".join(digits)


def _spoken(texts: list[str], voice: str, rng: random.Random) -> Iterator[Samples]:
    match voice:
        case "espeak":
            yield from (voices.espeak(words, rng) for words in texts)
        case "slt" | "kal16":
            yield from (voices.flite(words, voice, rng.uniform(0.8, 1.3)) for words in texts)
        case "slt deepened":
            yield from (voices.deepened(words, rng.uniform(0.76, 0.98)) for words in texts)
        case "hibari":
            yield from voices.hibari(texts, rng)
        case "piper":
            yield from voices.piper(texts, rng)
        case _:
            yield from voices.festival(texts, voice, rng)
