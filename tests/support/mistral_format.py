"""A checkpoint in the format of its makers, which is the one that vLLM serves Voxtral from.

The names are those of the released `consolidated.safetensors`; the rotary dimensions of
queries and keys lie interleaved there, and in halves in transformers' format.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers.models.whisper.modeling_whisper import sinusoids

_AUDIO = "mm_whisper_embeddings."
_TEXT_LAYER = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
_AUDIO_LAYER = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.out_proj": "attention.wo",
    "self_attn_layer_norm": "attention_norm",
    "fc1": "feed_forward.w1",
    "fc2": "feed_forward.w2",
    "final_layer_norm": "ffn_norm",
}
_OTHERS = {
    "language_model.model.embed_tokens": f"{_AUDIO}tok_embeddings",
    "language_model.model.norm": "norm",
    "language_model.lm_head": "output",
    "audio_tower.conv1": f"{_AUDIO}whisper_encoder.conv_layers.0",
    "audio_tower.conv2": f"{_AUDIO}whisper_encoder.conv_layers.1",
    "audio_tower.layer_norm": f"{_AUDIO}whisper_encoder.transformer.norm",
    "multi_modal_projector.linear_1": f"{_AUDIO}audio_language_projection.0",
    "multi_modal_projector.linear_2": f"{_AUDIO}audio_language_projection.2",
}
_LAYER = re.compile(r"(language_model\.model|audio_tower)\.layers\.(\d+)\.(.+)")
_ROTARY = re.compile(r"language_model\.model\.layers\..+\.([qk])_proj\.weight")
# A program that loads this format computes the position of each frame.
_POSITIONS = "audio_tower.embed_positions.weight"


def write_mistral_format(model: Path, folder: Path) -> None:
    """Write a model again, with its tokenizer; its shards become one file.

    Raises KeyError for a weight that has no place in the format, and ValueError for
    learned positions, which the format cannot hold.
    """
    config = json.loads((model / "config.json").read_text())
    weights: dict[str, torch.Tensor] = {}
    for shard in sorted(model.glob("model*.safetensors")):
        weights |= load_file(shard)
    _require_sinusoids(weights.pop(_POSITIONS))
    text = config["text_config"]
    heads = {"q": text["num_attention_heads"], "k": text["num_key_value_heads"]}
    folder.mkdir(parents=True, exist_ok=True)
    renamed = {}
    for name, weight in weights.items():
        rotary = _ROTARY.fullmatch(name)
        turned = weight if rotary is None else _interleaved(weight, heads[rotary[1]])
        renamed[mistral_name(name)] = turned.contiguous()
    save_file(renamed, folder / "consolidated.safetensors")
    (folder / "params.json").write_text(json.dumps(_params(config, model)))
    shutil.copy(model / "tekken.json", folder / "tekken.json")


def mistral_name(name: str) -> str:
    """What a weight of transformers' format is called in the other."""
    stem, _, kind = name.rpartition(".")
    if (layer := _LAYER.fullmatch(stem)) is None:
        return f"{_OTHERS[stem]}.{kind}"
    side, number, part = layer.groups()
    if side == "audio_tower":
        return f"{_AUDIO}whisper_encoder.transformer.layers.{number}.{_AUDIO_LAYER[part]}.{kind}"
    return f"layers.{number}.{_TEXT_LAYER[part]}.{kind}"


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    rows, columns = weight.shape
    halves = weight.view(heads, 2, rows // heads // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns)


def _require_sinusoids(positions: torch.Tensor) -> None:
    if not torch.allclose(positions.float(), sinusoids(*positions.shape).float(), atol=0.01):
        raise ValueError("the encoder's positions are learned ones, which this format has not")


def _params(config: dict[str, Any], model: Path) -> dict[str, Any]:
    text, audio = config["text_config"], config["audio_config"]
    features = json.loads((model / "preprocessor_config.json").read_text())
    encoder = {
        "audio_encoding_args": {
            "sampling_rate": features["sampling_rate"],
            "num_mel_bins": audio["num_mel_bins"],
            "hop_length": features["hop_length"],
            "window_size": features["n_fft"],
        },
        "dim": audio["hidden_size"],
        "n_layers": audio["num_hidden_layers"],
        "head_dim": audio["hidden_size"] // audio["num_attention_heads"],
        "hidden_dim": audio["intermediate_size"],
        "n_heads": audio["num_attention_heads"],
        "vocab_size": audio["vocab_size"],
        "max_source_positions": audio["max_source_positions"],
    }
    return {
        "dim": text["hidden_size"],
        "n_layers": text["num_hidden_layers"],
        "head_dim": text["head_dim"],
        "hidden_dim": text["intermediate_size"],
        "n_heads": text["num_attention_heads"],
        "n_kv_heads": text["num_key_value_heads"],
        "rope_theta": text["rope_parameters"]["rope_theta"],
        "norm_eps": text["rms_norm_eps"],
        "vocab_size": text["vocab_size"],
        "max_position_embeddings": text["max_position_embeddings"],
        "multimodal": {
            "whisper_model_args": {
                "encoder_args": encoder,
                # Encoder states side by side in one token.
                "downsample_args": {
                    "downsample_factor": audio["intermediate_size"] // audio["hidden_size"]
                },
            }
        },
    }
