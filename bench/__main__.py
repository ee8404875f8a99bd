"""`make bench`: every benchmark, as tables."""

import importlib
import shutil
import sys

# In the order in which they run; each is a module of this folder with a function `run`.
NAMES = (
    "cold_start",
    "throughput",
    "window_tail",
    "peers",
    "conversations",
    "schedules",
    "understanding",
    "calls",
    "speech",
    "speech_soak",
    "console_sound",
)
NEEDS = {"understanding": "flite", "calls": "flite", "console_sound": "chromium"}


def main() -> None:
    """Run what was named, or everything."""
    for name in sys.argv[1:] or NAMES:
        if name not in NAMES:
            sys.exit(f"no benchmark {name!r}; there are {', '.join(NAMES)}")
        needed = NEEDS.get(name)
        if needed is not None and shutil.which(needed) is None:
            print(f"{name}: skipped, it needs {needed}: apt-get install {needed}")
            continue
        importlib.import_module(f"bench.{name}").run()


if __name__ == "__main__":
    main()
