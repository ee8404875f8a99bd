"""Checks that a folder is a complete Voxtral checkpoint, without PyTorch.

A start with a bad folder should end in its first second, before the heavy libraries are imported,
and name the missing file.
"""

import hashlib
import json
import os.path
from pathlib import Path
from typing import Any

RUNPOD_CACHE = Path("/runpod-volume/huggingface-cache/hub")
ARCHITECTURE = "voxtral"
CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# The files that transformers' processor and tokenizer read in addition to the weights.
NEEDED = (CONFIG, "preprocessor_config.json", "tekken.json")
# The files to download from a hub repository. It has the same weights a second time, in Mistral's
# own layout (`consolidated*`), which are not downloaded.
WANTED = ["*.json", "*.safetensors"]
UNWANTED = ["consolidated*", "*/*"]
# How much of each end of a file goes into the fingerprint.
MARK_BYTES = 1 << 20


def missing_files(folder: Path) -> list[str]:
    """Names of the files that a checkpoint needs and that `folder` does not have.

    The index names the shards of the weights. A link to a file that does not exist counts as
    missing: an interrupted download leaves such links.
    """
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    return missing + [name for name in _weights(folder) if not (folder / name).is_file()]


def is_whole(folder: Path) -> bool:
    """Whether the folder has all files of a checkpoint."""
    return not missing_files(folder)


def problem_with(folder: Path) -> str | None:
    """One sentence on why `folder` cannot be served; None: it can."""
    if not folder.exists():
        return "there is no such folder"
    if not folder.is_dir():
        return "it is a file, but must be a folder"
    config = _read(folder / CONFIG)
    if config is None:
        return f"the folder has no {CONFIG} that can be read"
    architecture = config.get("model_type")
    if architecture != ARCHITECTURE:
        return f"this is a {architecture} model, but a {ARCHITECTURE} model is needed"
    if missing := missing_files(folder):
        return f"the folder has no {', '.join(missing)}"
    return None


def is_local(model_id: str) -> bool:
    """Whether `model_id` is a folder and not a repository of the hub.

    A hub id is `owner/name`. A text that begins like a path or has more parts is a path, even if
    nothing exists there.
    """
    looks_like_path = model_id.startswith(("/", ".", "~")) or model_id.count("/") > 1
    return looks_like_path or Path(model_id).exists()


def find_cached(model_id: str, revision: str | None, cache: Path = RUNPOD_CACHE) -> Path | None:
    """The folder of a hub model that is on this machine with all its files, or None.

    The volume is shared: another worker may be downloading to it now, or may have been killed
    during a download. An incomplete folder is left to the hub's client, which resumes the
    download.
    """
    repository = cache / f"models--{model_id.replace('/', '--')}"
    snapshots = repository / "snapshots"
    name = revision or "main"
    # The hub's cache: `refs/<name>` has the commit of a branch or tag, `snapshots/<commit>` its
    # files.
    reference = repository / "refs" / name
    commit = reference.read_text().strip() if reference.is_file() else name
    if is_whole(snapshots / commit):
        return snapshots / commit
    if revision is None and snapshots.is_dir():
        # No revision is asked for: the latest complete one will do.
        whole = [path for path in snapshots.iterdir() if is_whole(path)]
        return max(whole, key=os.path.getmtime, default=None)
    return None


def weight_files(folder: Path) -> list[Path]:
    """The files of the weights, sorted by name."""
    return [folder / name for name in _weights(folder)]


def fingerprint(folder: Path) -> str:
    """Identifies the weights of a checkpoint, as SHA-256 in hex. Raises OSError.

    It hashes the configuration, and the name, size, first and last MiB of each file of weights.
    The revision of the hub is not enough: the weights in a local folder may have been fine-tuned.
    """
    digest = hashlib.sha256((folder / CONFIG).read_bytes())
    for file in weight_files(folder):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as data:
            for start in (0, max(0, size - MARK_BYTES)):
                data.seek(start)
                digest.update(data.read(MARK_BYTES))
    return digest.hexdigest()


def _weights(folder: Path) -> list[str]:
    """Names of the files of the weights: the shards in the index, or a single file without one."""
    index = _read(folder / INDEX)
    if index is None:
        return [SINGLE]
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards:
        return [SINGLE]
    return sorted({str(name) for name in shards.values()})


def _read(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
