"""The decode kernel for GPUs, run by Triton's interpreter: it needs none."""

import importlib.util
import os
import subprocess
import sys

import pytest

CHECK = """
import sys
import torch
import torch.nn.functional as F
from voxtral_worker.engine.paged_kernel import decode, parts_for

heads, kv_heads, size, sequences, width, dtype = eval(sys.argv[1])
torch.manual_seed(1)
keys = torch.randn(40, 16, kv_heads, size, dtype=dtype)
values = torch.randn(40, 16, kv_heads, size, dtype=dtype)
# What lies behind the last token must not matter.
blocks = torch.randint(1, 40, (sequences, width), dtype=torch.int32)
keys[0], values[0] = float("inf"), float("nan")
lengths = torch.randint(1, 16 * width + 1, (sequences,), dtype=torch.int32)
lengths[0], lengths[-1] = 1, 16 * width
for row, length in zip(blocks, lengths):
    row[-(-int(length) // 16):] = 0
query = torch.randn(sequences, heads, size, dtype=dtype).transpose(0, 1)
output = torch.empty(sequences, heads, size, dtype=dtype)
decode(query, keys, values, blocks, lengths, 0.17, output)
for i, length in enumerate(lengths):
    k = keys[blocks[i].long()].flatten(0, 1)[:length].float().transpose(0, 1)[None]
    v = values[blocks[i].long()].flatten(0, 1)[:length].float().transpose(0, 1)[None]
    q = query[:, i].float()[None, :, None]
    expected = F.scaled_dot_product_attention(q, k, v, scale=0.17, enable_gqa=True)[0, :, 0]
    worst = (expected - output[i].float()).abs().max().item()
    assert worst < (1e-5 if dtype is torch.float32 else 5e-3), (i, int(length), worst)
print("parts", parts_for(sequences * kv_heads))
"""


@pytest.mark.parametrize(
    ("shape", "parts"),
    [
        ("6, 2, 32, 3, 9, torch.float32", 32),
        ("32, 8, 128, 2, 5, torch.float16", 16),
        ("6, 2, 32, 140, 2, torch.float32", 1),
    ],
)
def test_the_kernel_attends_like_pytorch(shape: str, parts: int) -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("this test needs Triton, which comes with PyTorch's CUDA build")
    done = subprocess.run(
        [sys.executable, "-c", CHECK, shape],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["parts", str(parts)]
