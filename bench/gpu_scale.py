"""How large the check for GPUs is: as it is meant, or small enough for a CPU and a test."""

from dataclasses import dataclass
from pathlib import Path

import torch

from bench.gpu_kernel import CASES, Heads
from bench.gpu_timing import free
from tests.support.random_model import RELEASED, SMALL, Shape, write_random_model
from voxtral_worker.checkpoint import is_whole
from voxtral_worker.engine.model import LoadedModel, load_model
from voxtral_worker.settings import Settings


@dataclass(frozen=True)
class Scale:
    """Sizes and limits of every part."""

    device: torch.device
    shape: Shape
    # Rows of a step of its own, with so many tokens each.
    batches: tuple[int, ...] = (1, 16, 64)
    context_tokens: int = 2000
    # Sequences in the engine's own loop, and in comparisons with the peers.
    loops: tuple[int, ...] = (1, 16, 32)
    loop_tokens: int = 128
    rounds: int = 5
    # Side of the matrices that bandwidth and products are measured with.
    floor_size: int = 8192
    kernel_cases: tuple[tuple[int, int], ...] = CASES
    kernel_heads: Heads = Heads()
    kernel_repeats: int = 20
    # 21 windows of sound are 7,896 tokens.
    late_windows: int = 21
    file_windows: int = 60
    file_s: float = 150.0
    # Talkers at the same time as the file, and for how long they are measured alone.
    beside: int = 8
    talk_s: float = 20.0
    fewest_talkers: int = 8
    most_talkers: int = 512
    # Between a talker's turns, from one end of speech to the next.
    turn_every_s: float = 6.0
    answer_tokens: int = 48
    most_first_s: float = 0.25
    most_gap_s: float = 0.1

    @property
    def settings(self) -> Settings:
        """Of an engine without a response cache."""
        return Settings(
            device=self.device.type,
            dtype="bfloat16",
            max_batch_size=max(*self.batches, *self.loops),
            response_cache_size=0,
        )


FULL = Scale(torch.device("cuda"), RELEASED)
TINY = Scale(
    torch.device("cpu"),
    SMALL,
    batches=(1, 2),
    loops=(1, 2),
    loop_tokens=8,
    rounds=1,
    floor_size=256,
    kernel_cases=((2, 70),),
    kernel_heads=Heads(4, 1, 128),
    kernel_repeats=1,
    late_windows=2,
    file_windows=3,
    file_s=150.0,
    beside=2,
    talk_s=1.0,
    fewest_talkers=1,
    most_talkers=2,
    turn_every_s=0.5,
    answer_tokens=4,
    # It is not a GPU.
    most_first_s=60.0,
    most_gap_s=60.0,
)
SCALES = {"cuda": FULL, "cpu": TINY}


def make_random(scale: Scale, folder: Path) -> None:
    """Write random weights of the scale's shape to `folder` where they are not there yet."""
    if not is_whole(folder):
        write_random_model(folder, scale.shape, scale.device)
        free(scale.device)


def load_random(scale: Scale, folder: Path, settings: Settings | None = None) -> LoadedModel:
    """Random weights of the scale's shape, made where they are not there yet."""
    make_random(scale, folder)
    return load_model((settings or scale.settings).model_copy(update={"model_id": str(folder)}))
