"""The check for GPUs runs from end to end, here on a CPU with a small shape."""

import pytest
import torch

from bench.gpu_check import check_speed, check_tokens, run
from bench.random_model import SMALL
from voxtral_worker.settings import Settings

CPU = torch.device("cpu")


def test_the_tokens_of_the_embedded_model_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    check_tokens(CPU)
    assert capsys.readouterr().out.count("equal") == 6


def test_a_random_checkpoint_in_shards_is_loaded_and_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = Settings(
        device="cpu",
        dtype="bfloat16",
        max_batch_size=2,
        max_context_tokens=4096,
        enable_torch_compile=True,
        response_cache_size=0,
    )
    with torch.compiler.set_stance("force_eager"):
        check_speed(CPU, SMALL, settings, batches=(1, 2))
    said = capsys.readouterr().out
    shards = int(said.split("loaded from ")[1].split()[0])
    assert shards > 1
    assert "| decode, batch 2, 2000 tokens each |" in said
    assert "| end of turn to first token, alone |" in said
    assert "2 sequences of 1,880 tokens and 64 new ones" in said


def test_without_a_gpu_the_check_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device: make gpu-check")
    run()
    assert "skipped" in capsys.readouterr().out
