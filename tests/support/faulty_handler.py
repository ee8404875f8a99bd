"""`handler.py` with a model that fails on a signal: one layer at SIGUSR1, all at SIGUSR2."""

import runpy
import signal
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    import torch

    faults: list[int] = []
    ones = torch.ones

    def _fail_when_told(layer: torch.nn.Module, _: object) -> None:
        if faults and type(layer).__name__ == "LlamaDecoderLayer":
            if faults.pop() == signal.SIGUSR2:
                faults.append(signal.SIGUSR2)
            raise RuntimeError("injected: an illegal memory access in /opt/secret/kernel.cu")

    def _answer_unless_lost(*arguments: Any, **options: Any) -> torch.Tensor:
        # What the engine asks of a device to see whether it still computes.
        if signal.SIGUSR2 in faults:
            raise RuntimeError("injected: the device is lost")
        return ones(*arguments, **options)

    torch.ones = _answer_unless_lost

    torch.nn.modules.module.register_module_forward_pre_hook(_fail_when_told)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: faults.append(number))
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "handler.py"), run_name="__main__")
