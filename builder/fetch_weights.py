"""Downloads a model into a folder, for an image that contains the weights."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from voxtral_worker.checkpoint import UNWANTED, WANTED, missing_files


def main(arguments: Sequence[str]) -> int:
    """Download the model of the command line, with HF_TOKEN if set. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_id", help="hub id, such as mistralai/Voxtral-Mini-3B-2507")
    parser.add_argument("folder", type=Path, help="folder for the files")
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
    # A repository may lack files, or a name may not match WANTED: check before the image is built.
    if lacking := missing_files(wish.folder):
        print(f"{wish.model_id} has no {', '.join(lacking)}", file=sys.stderr)
        return 1
    print(f"{wish.model_id} is in {wish.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
