"""A recorder of steps for machines without CUDA graphs."""

from collections.abc import Callable

import torch

from voxtral_worker.engine.recording import Recording


class FakeRecorder:
    """Records by remembering the work; fails if a test wants it."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.recorded = 0
        self.outputs: list[torch.Tensor] = []

    def record(self, work: Callable[[], torch.Tensor]) -> Recording:
        self.recorded += 1
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        output = work()
        self.outputs.append(output)

        def replay() -> None:
            output.copy_(work())

        return Recording(replay, output)
