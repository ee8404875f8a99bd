"""The shape of the embedded model, and its folder on disk."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LlamaConfig,
    VoxtralConfig,
    VoxtralEncoderConfig,
    VoxtralForConditionalGeneration,
    WhisperFeatureExtractor,
)

from builder.voxtral_tiny import whisper
from builder.voxtral_tiny.tokenizer import (
    AUDIO,
    BOS,
    EOS,
    PAD,
    VOCABULARY,
    write_tokenizer,
)

MELS = 80


def make_config() -> VoxtralConfig:
    """Whisper tiny.en's encoder and a small language model, 10.6 M parameters.

    Windows of 30 s, 1500 positions, 375 audio tokens as in the real one.
    """
    encoder = VoxtralEncoderConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        intermediate_size=1536,  # four stacked positions, which the projector reshapes into one
        num_hidden_layers=4,
        num_attention_heads=6,
        num_mel_bins=MELS,
        max_source_positions=1500,
        activation_function="gelu",
        dropout=0.0,
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=32768,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e8},
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        tie_word_embeddings=False,
    )
    return VoxtralConfig(
        audio_config=encoder.to_dict(),
        text_config=text.to_dict(),
        audio_token_id=AUDIO,
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
    )


def sinusoids(length: int, channels: int) -> torch.Tensor:
    """Whisper's positions, float [length, channels]; other servers compute them again."""
    increment = math.log(10_000) / (channels // 2 - 1)
    inverse = torch.exp(-increment * torch.arange(channels // 2))
    scaled = torch.arange(length)[:, None] * inverse[None, :]
    return torch.cat([scaled.sin(), scaled.cos()], dim=1)


def new_model(seed: int, encoder: dict[str, torch.Tensor]) -> Any:
    """A model in float32 with the given encoder; all else is untrained."""
    torch.manual_seed(seed)
    model = VoxtralForConditionalGeneration(make_config())
    tower = model.model.audio_tower
    tower.load_state_dict(encoder)
    tower.embed_positions.weight.data.copy_(sinusoids(*tower.embed_positions.weight.shape))
    tower.requires_grad_(False)
    return model


def save(state: dict[str, torch.Tensor], folder: Path) -> None:
    """Write everything that `from_pretrained` needs offline; the weights appear at once."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    half = VoxtralForConditionalGeneration(make_config()).to(torch.bfloat16)
    half.load_state_dict(state)
    half.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False
    )
    half.save_pretrained(folder / "new")
    for path in (folder / "new").iterdir():
        path.chmod(0o644)
        path.replace(folder / path.name)
    (folder / "new").rmdir()
    WhisperFeatureExtractor(feature_size=MELS).save_pretrained(folder)
    (folder / "LICENSE-whisper").write_text(whisper.LICENSE)
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(0o644)
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
