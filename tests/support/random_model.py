"""A checkpoint of a given Voxtral shape with random weights, sharded as the released one."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import VoxtralConfig, VoxtralForConditionalGeneration
from transformers.models.whisper.modeling_whisper import sinusoids

from builder.voxtral_tiny.tokenizer import write_tokenizer
from voxtral_worker.settings import EMBEDDED_MODEL

# Of every Voxtral that was released; the embedded model's encoder hears fewer.
MEL_BINS = 128


@dataclass(frozen=True)
class Shape:
    """The numbers in which Voxtral models differ."""

    audio_hidden: int
    audio_layers: int
    audio_heads: int
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    bpe_tokens: int
    special_tokens: int
    shard_size: str

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        return self.bpe_tokens + self.special_tokens


# Voxtral-Mini-3B-2507: 4.7 G parameters, two shards of up to 5 GB.
RELEASED = Shape(1280, 32, 20, 3072, 8192, 30, 32, 8, 128, 130_072, 1000, "5GB")
# Small enough for a test on a CPU.
SMALL = Shape(64, 2, 2, 64, 128, 2, 4, 2, 16, 1250, 36, "100KB")


def write_random_model(folder: Path, shape: Shape, device: torch.device) -> None:
    """Write all files that a hub's folder has; the weights are made on the device, in bf16."""
    folder.mkdir(parents=True, exist_ok=True)
    config = VoxtralConfig.from_dict(config_of(shape))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            torch.manual_seed(1)
            model = VoxtralForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    # As the released encoder has them; the format of its makers has no place for others.
    positions = model.model.audio_tower.embed_positions.weight.data
    positions.copy_(sinusoids(*positions.shape))
    model.save_pretrained(folder, max_shard_size=shape.shard_size)
    write_tokenizer(folder, shape.bpe_tokens, shape.special_tokens)
    shutil.copy(EMBEDDED_MODEL / "generation_config.json", folder)
    features = json.loads((EMBEDDED_MODEL / "preprocessor_config.json").read_text())
    features["feature_size"] = MEL_BINS
    (folder / "preprocessor_config.json").write_text(json.dumps(features))


def config_of(shape: Shape) -> dict[str, object]:
    """The embedded model's config with other numbers: everything else is the same."""
    config: dict[str, object] = json.loads((EMBEDDED_MODEL / "config.json").read_text())
    audio, text = dict(config["audio_config"]), dict(config["text_config"])  # type: ignore[call-overload]
    audio |= {
        "hidden_size": shape.audio_hidden,
        # Four stacked positions, which the projector makes one token of.
        "intermediate_size": 4 * shape.audio_hidden,
        "num_hidden_layers": shape.audio_layers,
        "num_attention_heads": shape.audio_heads,
        "vocab_size": shape.vocabulary,
        "num_mel_bins": MEL_BINS,
    }
    text |= {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "vocab_size": shape.vocabulary,
    }
    return {**config, "audio_config": audio, "text_config": text, "hidden_size": shape.hidden}
