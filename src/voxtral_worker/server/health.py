"""The answer of `GET /health` and of the health job."""

import time
from typing import Any

import psutil

from voxtral_worker import __version__
from voxtral_worker.server.lifecycle import Phase
from voxtral_worker.server.service import Service

NO_GPU = {"gpu_count": 0, "gpu_memory": 0, "gpu_memory_allocated": 0, "gpu_memory_cached": 0}


def health(service: Service) -> dict[str, Any]:
    """The state of the worker, in the documented fields."""
    engine = service.parts.engine if service.parts else None
    return {
        "status": service.phase.value,
        "timestamp": time.time(),
        "system": {
            "cpu_percent": psutil.cpu_percent(),
            "memory_percent": psutil.virtual_memory().percent,
            "disk_usage": psutil.disk_usage("/").percent,
        },
        "gpu": service.parts.loaded.gpu() if service.parts else NO_GPU,
        "active_sessions": len(service.sessions),
        "queue_size": engine.waiting if engine else 0,
        "model": _model(service),
        "capacity": _capacity(service),
        "voices": _voices(service),
        "loading": _loading(service),
        "version": __version__,
        "uptime_seconds": round(time.monotonic() - service.life.started_s, 3),
    }


def is_healthy(service: Service) -> bool:
    """Whether `GET /health` returns 200."""
    return service.phase is Phase.READY


def _loading(service: Service) -> dict[str, Any] | None:
    """How far the cold start is; None once it is over."""
    if service.phase is not Phase.STARTING:
        return None
    return service.life.cold_start.state(time.monotonic())


def _capacity(service: Service) -> dict[str, int]:
    """How many sessions the worker may have, and how many more it would take now."""
    limit = service.sessions.registry.max_sessions
    available = max(0, limit - len(service.sessions))
    if service.parts is not None and service.parts.admission is not None:
        available = min(available, service.parts.admission.room(time.monotonic()))
    return {"max_sessions": limit, "available": available}


def _voices(service: Service) -> list[str]:
    """The voices for answers, `default` first; none if SPEECH is off.

    A remote speech server may have more voices, which the worker does not know.
    """
    speech = service.parts.speech if service.parts else None
    return list(speech.voices) if speech else []


def _model(service: Service) -> dict[str, Any]:
    """The model, as far as it is loaded."""
    loaded = service.parts.loaded if service.parts else None
    return {
        "id": loaded.model_id if loaded else None,
        "revision": loaded.revision if loaded else service.settings.model_revision,
        "device": loaded.device.type if loaded else None,
        "dtype": str(loaded.dtype).removeprefix("torch.") if loaded else None,
        "attention": service.parts.engine.attention if service.parts else None,
        "window_tail": service.parts.engine.window_tail if service.parts else None,
        "tail_checked": loaded.tail_checked if loaded else None,
        "ready": service.phase is Phase.READY,
    }
