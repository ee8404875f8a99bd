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

from builder.voxtral_tiny.tokenizer import AUDIO, BOS, EOS, PAD, VOCABULARY, write_tokenizer


def make_config() -> VoxtralConfig:
    """3.3 M parameters; windows of 30 s, 1500 positions, 375 audio tokens as in the real one."""
    encoder = VoxtralEncoderConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=512,  # four stacked positions, which the projector reshapes into one
        num_hidden_layers=4,
        num_attention_heads=4,
        num_mel_bins=128,
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
    """Whisper's positions, float [length, channels]; other servers compute them anew."""
    increment = math.log(10_000) / (channels // 2 - 1)
    inverse = torch.exp(-increment * torch.arange(channels // 2))
    scaled = torch.arange(length)[:, None] * inverse[None, :]
    return torch.cat([scaled.sin(), scaled.cos()], dim=1)


def new_model(seed: int) -> Any:
    """An untrained model in float32."""
    torch.manual_seed(seed)
    model = VoxtralForConditionalGeneration(make_config())
    positions = model.model.audio_tower.embed_positions
    positions.weight.data.copy_(sinusoids(*positions.weight.shape))
    return model


def save(model: Any, folder: Path) -> None:
    """Write everything that `from_pretrained` needs offline; the weights appear at once."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    half = VoxtralForConditionalGeneration(model.config).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    half.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False
    )
    half.save_pretrained(folder / "new")
    for path in (folder / "new").iterdir():
        path.chmod(0o644)
        path.replace(folder / path.name)
    (folder / "new").rmdir()
    WhisperFeatureExtractor(feature_size=128).save_pretrained(folder)
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(0o644)
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
