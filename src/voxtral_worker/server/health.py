"""What `GET /health` and the health job say."""

import time
from typing import Any

import psutil

from voxtral_worker import __version__
from voxtral_worker.server.service import Phase, Service

NO_GPU = {"gpu_count": 0, "gpu_memory": 0, "gpu_memory_allocated": 0, "gpu_memory_cached": 0}


def health(service: Service) -> dict[str, Any]:
    """The documented fields, and what the contract adds."""
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
        "active_sessions": len(service.registry),
        "queue_size": engine.waiting if engine else 0,
        "model": service.model(),
        "capacity": service.capacity(),
        "version": __version__,
        "uptime_seconds": round(time.monotonic() - service.started_s, 3),
    }


def is_healthy(service: Service) -> bool:
    """Whether `GET /health` answers 200."""
    return service.phase is Phase.READY
