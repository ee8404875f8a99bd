"""Starts the worker on RunPod: `python handler.py`.

Importing this file must do nothing: the SDK's heartbeat is a spawned process, and a spawned process
imports the main file again.
"""

import importlib.util
import sys
from pathlib import Path

if __name__ == "__main__":
    # If the package is not installed, use the source next to this file.
    if importlib.util.find_spec("voxtral_worker") is None:
        sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))
    from voxtral_worker.worker import main

    sys.exit(main(sys.argv[1:]))
