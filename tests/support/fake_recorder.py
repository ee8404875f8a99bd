"""A recorder of steps for machines without CUDA graphs."""

from collections.abc import Callable

import torch

from voxtral_worker.engine.recording import Recording


class FakeRecorder:
    """Records by remembering the work; fails if told so."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.recorded = 0

    def record(self, work: Callable[[], torch.Tensor]) -> Recording:
        self.recorded += 1
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        output = work()

        def replay() -> None:
            output.copy_(work())

        return Recording(replay, output)
