"""The decode kernels are compiled for GPUs that are not here."""

import importlib.util
from pathlib import Path

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton comes with PyTorch's CUDA build", allow_module_level=True)

from builder.compile_kernels import CAPABILITIES, compile_for

# Shared memory that one program can have, KiB.
SHARED_KIB = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_kernels_fit_each_gpu(capability: int, is_weighted: bool) -> None:
    for binary in compile_for(capability, torch.bfloat16, is_weighted=is_weighted):
        assert binary.metadata.target.arch == capability
        assert binary.metadata.shared <= SHARED_KIB[capability] * 1024
        assert ".local" not in binary.asm["ptx"]
        assert binary.asm["cubin"]


@pytest.mark.parametrize("is_weighted", [False, True])
def test_one_binary_serves_every_number_of_parts_and_every_width(
    cache: Path, is_weighted: bool
) -> None:
    compile_for(90, torch.bfloat16, is_weighted=is_weighted)
    folders = set(cache.iterdir())
    assert folders
    for parts, width in ((8, 1), (16, 257), (32, 4096)):
        compile_for(90, torch.bfloat16, parts=parts, blocks_row=width, is_weighted=is_weighted)
    assert set(cache.iterdir()) == folders
