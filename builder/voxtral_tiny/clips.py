"""The bundled clips: short recordings of synthetic voices for the demo and the tests."""

import json
from pathlib import Path

import numpy as np
import soundfile

from builder.voxtral_tiny import voices
from builder.voxtral_tiny.voices import HELD_OUT, SAMPLE_RATE

# Sentences that the model gets right; docs/embedded-model.md shows how often it does not.
# Two are of voices that the model was trained on; all others are of the held-out voice.
CLIPS = {
    "turn on the kitchen light": HELD_OUT,
    "turn off the living room fan": HELD_OUT,
    "what time is it": HELD_OUT,
    "set a timer for five minutes": HELD_OUT,
    "open the garage door": HELD_OUT,
    "call three one four": HELD_OUT,
    "go forward two meters": HELD_OUT,
    "what is the weather tomorrow": HELD_OUT,
    "one moment please": HELD_OUT,
    "call home on friday": HELD_OUT,
    "stop the music": "slt",
    "close the kitchen window": "kal16",
}


def write_clips(folder: Path) -> None:
    """Write `clips/*.wav` (16 kHz, mono, 16 bits) and `clips/index.json`: file → words."""
    target = folder / "clips"
    target.mkdir(parents=True, exist_ok=True)
    index = {}
    for words, voice in CLIPS.items():
        name = words.replace(" ", "-") + ".wav"
        samples = np.pad(
            voices.flite(words, voice), (int(0.2 * SAMPLE_RATE), int(0.3 * SAMPLE_RATE))
        )
        # A room is never quite silent, and a turn detector should meet what it will meet.
        noise = 2e-4 * np.random.default_rng(0).standard_normal(len(samples))
        soundfile.write(target / name, samples + noise, SAMPLE_RATE, subtype="PCM_16")
        (target / name).chmod(0o644)
        index[name] = words
    (target / "index.json").write_text(json.dumps(index, indent=2) + "\n")
