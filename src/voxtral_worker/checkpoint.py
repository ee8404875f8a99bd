"""What a folder must hold to be a Voxtral checkpoint, read without PyTorch.

A start that cannot work should end in its first second, before the heavy libraries are
imported, and name the file that is missing.
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
# What transformers' processor and tokenizer read beside the weights.
NEEDED = (CONFIG, "preprocessor_config.json", "tekken.json")
# What is downloaded of a hub's repository; the same weights lie beside it in Mistral's own layout.
WANTED = ["*.json", "*.safetensors"]
UNWANTED = ["consolidated*", "*/*"]
# What is read of each end of a file to tell it from others.
MARK_BYTES = 1 << 20


def missing_files(folder: Path) -> list[str]:
    """Names of the files that a checkpoint cannot do without and that `folder` lacks.

    The shards are those that the index names. A link to a file that is not there, as an
    interrupted download leaves it, counts as missing.
    """
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    return missing + [name for name in _weights(folder) if not (folder / name).is_file()]


def is_whole(folder: Path) -> bool:
    """Whether every file of the checkpoint is there."""
    return not missing_files(folder)


def problem_with(folder: Path) -> str | None:
    """One sentence on why `folder` cannot be served, or None."""
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
    """Whether `model_id` names a folder rather than a repository of the hub.

    A hub id is `owner/name`; what begins like a path, or has another number of parts, is a
    path, also where nothing is there.
    """
    looks_like_path = model_id.startswith(("/", ".", "~")) or model_id.count("/") > 1
    return looks_like_path or Path(model_id).exists()


def find_cached(model_id: str, revision: str | None, cache: Path = RUNPOD_CACHE) -> Path | None:
    """Folder of a hub model that is on the machine with all its files, or None.

    The volume is shared: another worker may be downloading to it now, or may have been
    killed in the middle. What is not whole is left to the hub's client, which resumes it.
    """
    repository = cache / f"models--{model_id.replace('/', '--')}"
    snapshots = repository / "snapshots"
    name = revision or "main"
    reference = repository / "refs" / name
    commit = reference.read_text().strip() if reference.is_file() else name
    if is_whole(snapshots / commit):
        return snapshots / commit
    if revision is None and snapshots.is_dir():
        whole = [path for path in snapshots.iterdir() if is_whole(path)]
        return max(whole, key=os.path.getmtime, default=None)
    return None


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights, in the order of their names."""
    return [folder / name for name in _weights(folder)]


def fingerprint(folder: Path) -> str:
    """Names the weights of a checkpoint: SHA-256, in hex, of its configuration and of the first
    and last MiB of each file of weights, with its size.

    A hub's revision would not tell a folder whose weights were trained further. Raises OSError.
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
    """Names of the files with the weights; the single file's where there is no index."""
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
