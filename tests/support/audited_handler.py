"""`handler.py`, whose log names every file that Python opens for writing."""

import os
import runpy
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def tell(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str) and arguments[2] & WRITES:
        os.write(2, f"opened for writing: {arguments[0]}\n".encode())


if __name__ == "__main__":
    sys.addaudithook(tell)
    sys.path.insert(0, str(REPOSITORY / "src"))
    runpy.run_path(str(REPOSITORY / "handler.py"), run_name="__main__")
