"""The decode kernel for GPUs, run by Triton's interpreter: it needs none."""

from pathlib import Path

import pytest

from tests.support.triton_interpreter import interpreted

CHECK = """
import sys
import torch
import torch.nn.functional as F
from voxtral_worker.engine.paged_kernel import decode, parts_for


def check(shape):
    heads, kv_heads, size, sequences, width, dtype, is_weighted, *edges = eval(f"({shape})")
    torch.manual_seed(1)
    keys = torch.randn(40, 16, kv_heads, size, dtype=dtype)
    values = torch.randn(40, 16, kv_heads, size, dtype=dtype)
    # What lies behind the last token must not matter.
    blocks = torch.randint(1, 40, (sequences, width), dtype=torch.int32)
    keys[0], values[0] = float("inf"), float("nan")
    lengths = torch.randint(1, 16 * width + 1, (sequences,), dtype=torch.int32)
    lengths[0], lengths[-1] = 1, 16 * width
    if edges:
        lengths[:] = torch.tensor(edges)
    for row, length in zip(blocks, lengths):
        row[-(-int(length) // 16):] = 0
    query = torch.randn(sequences, heads, size, dtype=dtype).transpose(0, 1)
    output = torch.empty(sequences, heads, size, dtype=dtype)
    log_weights = None
    if is_weighted:
        log_weights = 3 * torch.rand(40, 16)
        log_weights[0] = float("nan")
    decode(query, keys, values, blocks, lengths, 0.17, output, log_weights)
    for i, length in enumerate(lengths):
        k = keys[blocks[i].long()].flatten(0, 1)[:length].float().transpose(0, 1)[None]
        v = values[blocks[i].long()].flatten(0, 1)[:length].float().transpose(0, 1)[None]
        q = query[:, i].float()[None, :, None]
        bias = None
        if is_weighted:
            bias = log_weights[blocks[i].long()].flatten()[:length][None]
        expected = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, scale=0.17, enable_gqa=True
        )[0, :, 0]
        worst = (expected - output[i].float()).abs().max().item()
        most = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}[dtype]
        assert worst < most, (i, int(length), worst)
    return f"parts {parts_for(sequences * kv_heads)}"


# One process for all: to start one takes longer than most shapes do.
for shape in sys.argv[1:]:
    try:
        print(check(shape))
    except Exception as error:
        print("failed", repr(error).replace("\\n", " "))
"""

EDGES = (1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 2000)


SHAPES = [
    ("6, 2, 32, 3, 9, torch.float32, False", 32),
    ("6, 2, 32, 3, 9, torch.float32, True", 32),
    ("32, 8, 128, 2, 5, torch.float16, False", 16),
    ("32, 8, 128, 2, 5, torch.bfloat16, False", 16),
    ("32, 8, 128, 2, 5, torch.bfloat16, True", 16),
    ("6, 2, 32, 140, 2, torch.float32, False", 8),
    # Around the ends of blocks, tiles and parts, and a long one among the short.
    (f"4, 1, 128, {len(EDGES)}, 125, torch.float32, False, *{EDGES}", 32),
    (f"4, 1, 128, {len(EDGES) - 1}, 9, torch.float32, True, *{EDGES[:-1]}", 32),
    (f"4, 1, 128, {len(EDGES)}, 125, torch.bfloat16, False, *{EDGES}", 32),
]


@pytest.fixture(scope="module")
def attended() -> dict[str, str]:
    """What each shape's check prints."""
    shapes = [shape for shape, _ in SHAPES]
    return dict(zip(shapes, interpreted(CHECK, *shapes).splitlines(), strict=True))


@pytest.mark.parametrize(("shape", "parts"), SHAPES)
def test_the_kernel_attends_like_pytorch(attended: dict[str, str], shape: str, parts: int) -> None:
    assert attended[shape] == f"parts {parts}"


PRODUCT = """
import torch
import triton
import triton.language as tl

@triton.jit
def product(a, b, to, N: tl.constexpr):
    at = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    x, y = tl.load(a + at), tl.load(b + at)
    tl.store(to + at, tl.dot(x, y).to(to.dtype.element_ty))

ones = torch.ones(16, 16, dtype=torch.bfloat16)
# 16 of these are 1.998, which rounds up to 2 in bfloat16.
nearly = torch.full((16, 16), 0.12487792, dtype=torch.float32)
sums = torch.empty(16, 16, dtype=torch.bfloat16)
product[(1,)](ones, ones, sums, 16)
rounded = torch.empty(16, 16, dtype=torch.bfloat16)
product[(1,)](torch.ones(16, 16), nearly, rounded, 16)
print(sums[0, 0].item(), rounded[0, 0].item())
"""


def write_to(path: Path, code: str) -> str:
    """A kernel's source is read from its file, so `-c` alone has none."""
    path.write_text(code)
    return f"import runpy; runpy.run_path({str(path)!r})"


def test_the_interpreter_is_taught_bfloat16(tmp_path: Path) -> None:
    program = write_to(tmp_path / "product.py", PRODUCT)
    assert interpreted(program).split() == ["16.0", "2.0"]


def test_the_interpreter_still_needs_to_be_taught(tmp_path: Path) -> None:
    # When this fails, Triton has learned it: delete triton_bfloat16.py.
    program = write_to(tmp_path / "product.py", PRODUCT)
    assert interpreted(program, prelude="").split() != ["16.0", "2.0"]
