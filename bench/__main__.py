"""`make bench`: every benchmark, as tables."""

import shutil
import sys

from bench import throughput, understanding


def main() -> None:
    """Run what was named, or everything."""
    names = sys.argv[1:] or ["throughput", "understanding"]
    for name in names:
        match name:
            case "throughput":
                throughput.run()
            case "understanding" if shutil.which("flite") is None:
                print("understanding: skipped, it needs flite: apt-get install flite")
            case "understanding":
                understanding.run()
            case _:
                sys.exit(f"no benchmark {name!r}; there are throughput, understanding")


if __name__ == "__main__":
    main()
