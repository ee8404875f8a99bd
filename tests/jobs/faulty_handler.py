"""`handler.py` with a model whose next layer fails whenever the process hears SIGUSR1."""

import runpy
import signal
from pathlib import Path

if __name__ == "__main__":
    import torch

    faults: list[int] = []

    def fail_when_told(layer: torch.nn.Module, _: object) -> None:
        if faults and type(layer).__name__ == "LlamaDecoderLayer":
            faults.pop()
            raise RuntimeError("injected: an illegal memory access in /opt/secret/kernel.cu")

    torch.nn.modules.module.register_module_forward_pre_hook(fail_when_told)
    signal.signal(signal.SIGUSR1, lambda *_: faults.append(1))
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "handler.py"), run_name="__main__")
