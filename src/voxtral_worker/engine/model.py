"""Loads a Voxtral checkpoint, from a local folder or by its id on the hub.

The classes, the processor and the loading are transformers'.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from transformers import VoxtralForConditionalGeneration, VoxtralProcessor
from transformers.utils import logging as transformers_logging

from voxtral_worker.checkpoint import find_cached, fingerprint, is_local
from voxtral_worker.engine.download import download
from voxtral_worker.engine.layout import EXACT, SAMPLED
from voxtral_worker.engine.tail_record import has_passed
from voxtral_worker.errors import LoadFailure
from voxtral_worker.settings import EMBEDDED_MODEL, RELEASED_MODEL, Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint on its device, ready to run, with what its prompts need."""

    model: Any
    processor: Any
    model_id: str
    revision: str | None
    device: torch.device
    dtype: torch.dtype
    # Where its files are.
    folder: Path | None = None

    @property
    def is_embedded(self) -> bool:
        """Whether it is the model that comes with the worker."""
        return self.folder is not None and self.folder.resolve() == EMBEDDED_MODEL.resolve()

    @property
    def window_tail(self) -> str:
        """The default of the setting `WINDOW_TAIL`: SAMPLED for the embedded model."""
        return SAMPLED if self.is_embedded else EXACT

    @property
    def tokenizer(self) -> Any:
        """mistral-common's Tekkenizer."""
        return self.processor.tokenizer.tokenizer.instruct_tokenizer.tokenizer

    @cached_property
    def tail_checked(self) -> bool | None:
        """Whether `tail-check` has passed for these weights; None for the embedded ones."""
        if self.is_embedded:
            return None
        if self.folder is None:
            return False
        try:
            return has_passed(self.folder, fingerprint(self.folder))
        except OSError:
            return False

    def wait(self) -> None:
        """Wait until the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def gpu(self) -> dict[str, int]:
        """The device's memory in bytes, for `GET /health`; all 0 on a CPU."""
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
        """The most positions that the configuration allows."""
        return int(self.model.config.text_config.max_position_embeddings)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a response."""
        eos = self.model.generation_config.eos_token_id
        ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
        return frozenset([*ids, self.tokenizer.eos_id])


def choose_device(settings: Settings) -> torch.device:
    """The device of the settings; `auto` is CUDA if it is there. Raises LoadFailure without."""
    has_cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not has_cuda:
        raise LoadFailure("DEVICE is cuda, but no CUDA device can be used on this machine")
    wants_cuda = settings.device == "cuda" or (settings.device == "auto" and has_cuda)
    return torch.device("cuda" if wants_cuda else "cpu")


def choose_model(settings: Settings, device: torch.device) -> str:
    """The model of the settings, or the one that fits the device."""
    if settings.model_id is not None:
        return settings.model_id
    if settings.runs_on_runpod or device.type == "cuda":
        return RELEASED_MODEL
    log.info(
        "MODEL_ID is not set and there is no GPU: serving the embedded model, "
        "which knows 95 words; see the README for the real one"
    )
    return str(EMBEDDED_MODEL)


def load_model(
    settings: Settings, note_download: Callable[[int, int], None] | None = None
) -> LoadedModel:
    """Load by the settings.

    `note_download` gets how many bytes of a download are here and how many there are. Raises
    LoadFailure with one sentence on what went wrong.
    """
    device = choose_device(settings)
    model_id = choose_model(settings, device)
    dtype = _choose_dtype(settings, device)
    source, revision = model_id, settings.model_revision
    if Path(model_id).is_dir():
        revision = None
    elif cached := find_cached(model_id, revision):
        log.info("model found in the cache of the machine: %s", cached)
        source, revision = str(cached), None
    elif not is_local(model_id):
        source, revision = str(fetched(model_id, revision, note_download)), None
    transformers_logging.disable_progress_bar()
    # Its table of bad weights spans many lines; `require_every_weight` says it in one.
    transformers_logging.set_verbosity_error()
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(settings.gpu_memory_fraction)
    try:
        # Weights are read straight to the device: twice their size would not fit every machine.
        placement = {"device_map": device} if device.type == "cuda" else {}
        model, report = VoxtralForConditionalGeneration.from_pretrained(
            source,
            revision=revision,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            output_loading_info=True,
            # Reported below, together with other kinds.
            ignore_mismatched_sizes=True,
            **placement,
        )
        require_every_weight(report)
        processor = VoxtralProcessor.from_pretrained(source, revision=revision)
    except torch.OutOfMemoryError as error:
        raise LoadFailure(f"model {model_id!r} does not fit into the GPU's memory") from error
    except LoadFailure as error:
        raise LoadFailure(f"model {model_id!r} cannot be loaded: {error.message}") from None
    except Exception as error:  # noqa: BLE001 - a hub, a disk and three libraries can fail here
        raise LoadFailure(f"model {model_id!r} cannot be loaded: {_first_line(error)}") from error
    model.eval()
    if settings.enable_torch_compile:
        model.model.audio_tower.compile()
    # Only the folder's name, as no path of this machine may leave it.
    name = Path(model_id).resolve().name if Path(model_id).is_dir() else model_id
    return LoadedModel(model, processor, name, settings.model_revision, device, dtype, Path(source))


def fetched(
    model_id: str, revision: str | None, note: Callable[[int, int], None] | None = None
) -> Path:
    """Folder of a hub model, downloaded where it is not here; without a hub, what is here.

    Raises LoadFailure.
    """
    try:
        return download(model_id, revision, note=note)
    except Exception as error:  # noqa: BLE001 - a network, a hub and a disk can fail here
        here = find_cached(model_id, revision, Path(constants.HF_HUB_CACHE))
        if here is None:
            reason = _first_line(error)
            raise LoadFailure(f"model {model_id!r} cannot be loaded: {reason}") from error
        log.warning("the hub cannot be asked, the model on this machine is taken: %s", here)
        return here


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else repr(error)


def require_every_weight(report: Mapping[str, Any]) -> None:
    """Raise LoadFailure that names the first weight that was not read as the model has it.

    `report` is transformers' loading info. The library fills such weights with random
    numbers and warns: the worker would be ready, and answer nonsense.
    """
    kinds = {
        "missing_keys": "the checkpoint has no weight",
        "mismatched_keys": "the checkpoint has another shape for the weight",
    }
    for kind, sentence in kinds.items():
        keys = sorted(key if isinstance(key, str) else str(key[0]) for key in report[kind])
        if keys:
            more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            raise LoadFailure(f"{sentence} {keys[0]}{more}")
    if extra := sorted(report["unexpected_keys"]):
        log.warning("the model has no place for %d weights, the first is %s", len(extra), extra[0])


def _choose_dtype(settings: Settings, device: torch.device) -> torch.dtype:
    if settings.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }[settings.dtype]
