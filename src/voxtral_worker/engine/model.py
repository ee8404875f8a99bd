"""Loads a Voxtral checkpoint: one path for a local folder and for a hub id.

Everything is transformers' own: classes, processor, loading.
"""

import logging
import os.path
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import VoxtralForConditionalGeneration, VoxtralProcessor
from transformers.utils import logging as transformers_logging

from voxtral_worker.errors import LoadFailure
from voxtral_worker.settings import EMBEDDED_MODEL, RELEASED_MODEL, Settings

log = logging.getLogger(__name__)

RUNPOD_CACHE = Path("/runpod-volume/huggingface-cache/hub")


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint on its device, ready to run, with what its prompts need."""

    model: Any
    processor: Any
    model_id: str
    revision: str | None
    device: torch.device
    dtype: torch.dtype

    @property
    def tokenizer(self) -> Any:
        """mistral-common's Tekkenizer."""
        return self.processor.tokenizer.tokenizer.instruct_tokenizer.tokenizer

    def gpu(self) -> dict[str, int]:
        """The device's memory in bytes, as `GET /health` tells it; all 0 on a CPU."""
        if self.device.type == "cpu":
            names = ("gpu_count", "gpu_memory", "gpu_memory_allocated", "gpu_memory_cached")
            return dict.fromkeys(names, 0)
        return {
            "gpu_count": torch.cuda.device_count(),
            "gpu_memory": torch.cuda.get_device_properties(self.device).total_memory,
            "gpu_memory_allocated": torch.cuda.memory_allocated(self.device),
            "gpu_memory_cached": torch.cuda.memory_reserved(self.device),
        }

    @property
    def context_tokens(self) -> int:
        """Longest sequence the positions were made for."""
        return int(self.model.config.text_config.max_position_embeddings)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a response."""
        eos = self.model.generation_config.eos_token_id
        ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
        return frozenset([*ids, self.tokenizer.eos_id])


def choose_device(settings: Settings) -> torch.device:
    """The device by setting; `auto` takes CUDA where it is. Raises LoadFailure without it."""
    has_cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not has_cuda:
        raise LoadFailure("DEVICE is cuda, but no CUDA device can be used on this machine")
    wants_cuda = settings.device == "cuda" or (settings.device == "auto" and has_cuda)
    return torch.device("cuda" if wants_cuda else "cpu")


def choose_model(settings: Settings, device: torch.device) -> str:
    """The model by setting, or the one that fits where the worker runs."""
    if settings.model_id is not None:
        return settings.model_id
    if settings.runs_on_runpod or device.type == "cuda":
        return RELEASED_MODEL
    log.info(
        "MODEL_ID is not set and there is no GPU: serving the embedded model, "
        "which knows 95 words; see the README for the real one"
    )
    return str(EMBEDDED_MODEL)


def find_cached(model_id: str, revision: str | None, cache: Path = RUNPOD_CACHE) -> Path | None:
    """Folder of a hub model that RunPod has put on the machine before the start, or None."""
    repository = cache / f"models--{model_id.replace('/', '--')}"
    snapshots = repository / "snapshots"
    name = revision or "main"
    reference = repository / "refs" / name
    commit = reference.read_text().strip() if reference.is_file() else name
    if (snapshots / commit / "config.json").is_file():
        return snapshots / commit
    if revision is None and snapshots.is_dir():
        whole = [path for path in snapshots.iterdir() if (path / "config.json").is_file()]
        return max(whole, key=os.path.getmtime, default=None)
    return None


def load_model(settings: Settings) -> LoadedModel:
    """Load by the settings. Raises LoadFailure with one sentence on what went wrong."""
    device = choose_device(settings)
    model_id = choose_model(settings, device)
    dtype = _choose_dtype(settings, device)
    source, revision = model_id, settings.model_revision
    if Path(model_id).is_dir():
        revision = None
    elif cached := find_cached(model_id, revision):
        log.info("model found in the cache of the machine: %s", cached)
        source, revision = str(cached), None
    transformers_logging.disable_progress_bar()
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(settings.gpu_memory_fraction)
    try:
        # Weights are read straight to the device: twice their size would not fit every machine.
        placement = {"device_map": device} if device.type == "cuda" else {}
        model = VoxtralForConditionalGeneration.from_pretrained(
            source, revision=revision, dtype=dtype, attn_implementation="sdpa", **placement
        )
        processor = VoxtralProcessor.from_pretrained(source, revision=revision)
    except torch.OutOfMemoryError as error:
        raise LoadFailure(f"model {model_id!r} does not fit into the GPU's memory") from error
    except Exception as error:  # noqa: BLE001 - a hub, a disk and three libraries can fail here
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise LoadFailure(f"model {model_id!r} cannot be loaded: {reason}") from error
    model.eval()
    if settings.enable_torch_compile:
        model.model.audio_tower.compile()
    # A folder is told by its name: no path of this machine leaves it.
    name = Path(model_id).resolve().name if Path(model_id).is_dir() else model_id
    return LoadedModel(model, processor, name, settings.model_revision, device, dtype)


def _choose_dtype(settings: Settings, device: torch.device) -> torch.dtype:
    if settings.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }[settings.dtype]
