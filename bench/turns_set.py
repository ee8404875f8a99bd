"""Makes turns with pauses to measure turn detection with: `python -m bench.turns_set FOLDER`.

Turns of synthetic voices that hesitate in a sentence, after a filler, in a list and between groups
of digits, and turns of people (Debian's pocketsphinx-testdata) with the pauses that they made
themselves, lengthened. How long pauses are follows what LiveKit publishes of people who talk to
agents (eot-bench, English, silence alone): 56 % are longer than 0.3 s, 22 % than 0.6, 10 % than
1.0, 5 % than 1.6.

The folder gets recordings and `manifest.jsonl`, as `make turns-check` reads them.
"""

import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 16_000
# Held out of the embedded model's training, and another one.
VOICES = ("rms", "slt")
PEOPLE = Path("/usr/share/pocketsphinx/test/data")
# Of mid-turn pauses, which share is longer than so many seconds.
LONGER = ((1.0, 0.1), (0.556, 0.3), (0.217, 0.6), (0.1, 1.0), (0.05, 1.6), (0.0, 2.4))
NOISE = 10 ** (-70 / 20)
# A pause that a person made: so quiet, and so long.
QUIET = 10 ** (-32 / 20)
LEAST_PAUSE_S = 0.16
STEP = RATE // 100

Samples = NDArray[np.float32]

# A bar stands where the speaker hesitates.
TEXTS: dict[str, tuple[str, ...]] = {
    "sentence": (
        "what is the weather tomorrow",
        "please turn on the light in the kitchen",
        "can you tell me how long the battery lasts",
        "I would like to change my appointment",
        "the package has not arrived yet",
        "how much does the larger one cost",
        "my flight was cancelled this morning",
        "where is the nearest train station",
        "I think that is everything for today",
        "could you repeat the last part again",
    ),
    "mid-sentence": (
        "can you tell me | how long the battery lasts",
        "I would like to | change my appointment",
        "please turn on the | light in the kitchen",
        "the package that I | ordered last week has not arrived",
        "could you look up the | opening hours of the museum",
        "remind me to | call my sister on friday",
        "I am not sure whether | the second one is better",
        "is there a table for | six people tonight",
        "we should probably | leave before the traffic starts",
        "what I really want to | know is whether it works offline",
        "my account was | charged twice for the | same order",
        "the meeting with the | new team is on thursday",
    ),
    "filler": (
        "I would like, um, | the second one",
        "so, uh, | what does it cost",
        "my name is, um, | Robert Miller",
        "we arrive on, uh, | the third of may",
        "could you, um, | send it by mail",
        "well, you know, | it was fine before the update",
        "it is something like, uh, | a blue folder",
        "the problem is, um, | that it never rings",
    ),
    "list": (
        "I need milk, | eggs, | bread, | and two bottles of water",
        "we visited Rome, | Vienna, | and Prague",
        "please add apples, | carrots, | and rice",
        "it comes in red, | green, | and blue",
        "call Anna, | Peter, | and my brother",
        "first the kitchen, | then the hall, | and then the garden",
    ),
    "comma": (
        "if the train is late, | please book the next one",
        "when you have time, | call me back",
        "before we start, | can you hear me well",
        "to be honest, | I did not read it",
        "as far as I know, | the shop closes at eight",
        "on the other hand, | it is much cheaper",
    ),
    "numbers": (
        "my number is five five five, | one two three four",
        "the code is nine four, | seven seven, | two one",
        "it is zero eight hundred, | three three four, | five six",
        "my card ends with four two, | one nine",
        "room one zero two, | on the third floor",
        "the order is six six one, | eight three, | nine nine",
    ),
}


def pieces_of(text: str, voice: str) -> list[Samples] | None:
    """The speech between the bars of a text, cut out of one utterance; None: not to be found.

    The sounds of each word are counted alone, which some words say otherwise in a sentence.
    """
    words = [re.findall(r"[A-Za-z']+", part) for part in text.split("|")]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        said = _flite("-psdur", voice, text.replace("|", ""), str(path))
        samples, rate = soundfile.read(path, dtype="float32")
    if rate != RATE:
        return None
    sounds, before = [], 0.0
    for item in said.split():
        name, until = item.rsplit(":", 1)
        if name != "pau":
            sounds.append((before, float(until)))
        before = float(until)
    counts = [sum(_sounds(word, voice) for word in part) for part in words]
    if sum(counts) != len(sounds):
        return None
    pieces, at = [], 0
    for count in counts:
        start, end = sounds[at][0], sounds[at + count - 1][1]
        pieces.append(samples[int(start * RATE) : int(end * RATE)])
        at += count
    return pieces


def _sounds(word: str, voice: str) -> int:
    return len([name for name in _flite("-ps", voice, word, "none").split() if name != "pau"])


def _flite(option: str, voice: str, text: str, path: str) -> str:
    command = ["flite", option, "-voice", voice, "-t", text, "-o", path]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def people() -> dict[str, list[Samples]]:
    """Recordings of people, each cut where its speaker paused."""
    found = {}
    for path in sorted(PEOPLE.rglob("*.wav")) + sorted(PEOPLE.rglob("*.raw")):
        if path.suffix == ".raw":
            samples = np.float32(1 / 32_768) * np.fromfile(path, np.int16).astype(np.float32)
        else:
            samples, _ = soundfile.read(path, dtype="float32")
        found[path.stem] = cut_at_pauses(samples)
    return found


def cut_at_pauses(samples: Samples) -> list[Samples]:
    """The stretches between pauses of a recording; what is before and behind them is left out."""
    frames = samples[: len(samples) - len(samples) % STEP].reshape(-1, STEP)
    loudness = np.sqrt(np.square(frames).mean(axis=1))
    is_loud = loudness > QUIET * max(float(np.abs(samples).max()), 1e-6)
    stretches: list[list[int]] = []
    for step in np.flatnonzero(is_loud).tolist():
        if stretches and step - stretches[-1][1] <= LEAST_PAUSE_S * RATE / STEP:
            stretches[-1][1] = step + 1
        else:
            stretches.append([step, step + 1])
    # A stretch shorter than a word is a click.
    return [samples[a * STEP : b * STEP] for a, b in stretches if b - a > 15]


def pauses(count: int, rng: random.Random) -> list[float]:
    """So many lengths in seconds, spread over the distribution, in random order."""
    lengths = []
    for number in range(count):
        share = (number + rng.random()) / count
        for (above, start), (below, end) in zip(LONGER, LONGER[1:], strict=False):
            if below <= share <= above:
                at = (above - share) / (above - below)
                lengths.append(start * (end / start) ** at)
                break
    rng.shuffle(lengths)
    return lengths


def assemble(
    pieces: list[Samples], lengths: list[float], rng: random.Random
) -> tuple[Samples, list[dict[str, float]]]:
    """One recording, float32 [n], with its pauses; the last of them is the end of the turn."""
    noise = np.random.default_rng(rng.randrange(1 << 30))

    def silence(seconds: float) -> Samples:
        return noise.normal(0, NOISE, round(seconds * RATE)).astype(np.float32)

    parts, spans, at = [silence(0.4)], [], 0.4
    for piece, length in zip(pieces, [*lengths, 3.0], strict=True):
        loud = piece * (0.5 / max(float(np.abs(piece).max()), 1e-6))
        at += len(loud) / RATE
        parts += [loud, silence(length)]
        spans.append({"start": round(at, 3), "end": round(at + length, 3)})
        at += length
    return np.concatenate(parts), spans


def make(folder: Path) -> None:
    """Write the whole set."""
    folder.mkdir(parents=True, exist_ok=True)
    turns: list[tuple[str, str, list[Samples]]] = []
    for kind, texts in TEXTS.items():
        for number, text in enumerate(texts):
            for voice in VOICES:
                pieces = pieces_of(text, voice)
                if pieces is None:
                    print(f"left out, its words are not to be found: {voice}: {text}")
                else:
                    turns.append((f"{kind}-{number}-{voice}", kind, pieces))
    turns += [(f"people-{name}", "people", pieces) for name, pieces in people().items()]
    with (folder / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        for kind in sorted({kind for _, kind, _ in turns}):
            own = [turn for turn in turns if turn[1] == kind]
            rng = random.Random(kind)
            lengths = pauses(sum(len(pieces) - 1 for *_, pieces in own), rng)
            for name, _, pieces in own:
                mine = [lengths.pop() for _ in pieces[1:]]
                samples, spans = assemble(pieces, mine, rng)
                soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="PCM_16")
                row = {"id": name, "language": "en", "kind": kind, "audio": f"{name}.wav"}
                manifest.write(json.dumps({**row, "silence_spans": spans}) + "\n")
    print(f"{len(turns)} turns in {folder}")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
