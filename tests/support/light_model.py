"""The embedded model's words behind a small encoder of random weights.

A whole window costs the embedded model's encoder about a second. What a test asks of windows,
batches and caches does not depend on what the encoder has learned, but near ties of random
words would hide a difference: so the language model stays the trained one.
"""

import json
import shutil
from pathlib import Path

import torch
from transformers import VoxtralConfig, VoxtralForConditionalGeneration

from tests.support.embedded_model import EMBEDDED
from tests.support.settings import changed
from voxtral_worker.engine.model import LoadedModel, load_model
from voxtral_worker.settings import EMBEDDED_MODEL

HIDDEN, LAYERS, HEADS = 32, 2, 2


def write_light_model(folder: Path) -> None:
    """Write all files of a checkpoint to a folder that is not there yet."""
    shutil.copytree(EMBEDDED_MODEL, folder, ignore=shutil.ignore_patterns("clips"))
    config = json.loads((folder / "config.json").read_text())
    config["audio_config"] |= {
        "hidden_size": HIDDEN,
        # Four stacked positions, which the projector makes one token of.
        "intermediate_size": 4 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
    }
    torch.manual_seed(1)
    model = VoxtralForConditionalGeneration(VoxtralConfig.from_dict(config))
    trained = load_model(EMBEDDED).model
    model.model.language_model.load_state_dict(trained.model.language_model.state_dict())
    model.lm_head.load_state_dict(trained.lm_head.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)


def load_light_model(folder: Path) -> LoadedModel:
    """Load it as the embedded model is loaded."""
    return load_model(changed(EMBEDDED, model_id=str(folder)))
