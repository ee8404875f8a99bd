"""Downloads a model into a folder, for an image that carries its weights."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from voxtral_worker.checkpoint import UNWANTED, WANTED, missing_files


def main(arguments: Sequence[str]) -> int:
    """Download as told by the command line; the token is HF_TOKEN. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_id", help="hub id, as mistralai/Voxtral-Mini-3B-2507")
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--revision", default="main", help="branch, tag or commit")
    wish = parser.parse_args(arguments)

    from huggingface_hub import snapshot_download

    snapshot_download(
        wish.model_id,
        revision=wish.revision,
        local_dir=wish.folder,
        allow_patterns=WANTED,
        ignore_patterns=UNWANTED,
    )
    if lacking := missing_files(wish.folder):
        print(f"{wish.model_id} has no {', '.join(lacking)}", file=sys.stderr)
        return 1
    print(f"{wish.model_id} is in {wish.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
