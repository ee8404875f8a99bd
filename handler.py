"""RunPod's way in.

Nothing happens when this file is imported: the SDK's heartbeat is a spawned process, and
such a process imports the main file again.
"""

import importlib.util
import sys
from pathlib import Path

if __name__ == "__main__":
    if importlib.util.find_spec("voxtral_worker") is None:
        sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))
    from voxtral_worker.worker import main

    sys.exit(main(sys.argv[1:]))
