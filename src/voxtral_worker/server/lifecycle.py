"""The life of the worker: how far it is, what it is made of, and the calls that it serves now."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from voxtral_worker.errors import NotReady
from voxtral_worker.server.loading import ColdStart
from voxtral_worker.sessions.admission import Admission
from voxtral_worker.speech.speech import Speech
from voxtral_worker.tracing import Tracing

if TYPE_CHECKING:
    # The server listens before these bring PyTorch in.
    from voxtral_worker.engine.engine import Engine
    from voxtral_worker.engine.model import LoadedModel
    from voxtral_worker.turns.completeness import Completeness
    from voxtral_worker.turns.vad import Vad


class Phase(Enum):
    """Where the worker is in its life, as `GET /health` says it."""

    STARTING = "starting"
    READY = "healthy"
    DRAINING = "draining"
    FAILED = "unhealthy"


@dataclass(frozen=True)
class Parts:
    """What cold start makes and the server needs."""

    engine: "Engine"
    vad: "Vad"
    loaded: "LoadedModel"
    tracing: Tracing | None = None
    admission: Admission | None = None
    # None: there is no file of a turn model.
    completeness: "Completeness | None" = None
    # None where SPEECH is off.
    speech: Speech | None = None


class Lifecycle:
    """Goes from starting to ready and to draining, or fails. Owned by the server's loop."""

    def __init__(self) -> None:
        self.started_s = time.monotonic()
        self.started_at = int(time.time())
        self.parts: Parts | None = None
        self.calls_under_way = 0
        self.cold_start = ColdStart()
        self._phase = Phase.STARTING

    @property
    def phase(self) -> Phase:
        """The phase now; a worker whose engine or VAD has died is not healthy."""
        parts = self.parts
        is_lost = parts is not None and not (parts.engine.is_healthy and parts.vad.is_alive)
        if self._phase is Phase.READY and is_lost:
            return Phase.FAILED
        return self._phase

    def become_ready(self, parts: Parts) -> None:
        """The model is loaded and warm: sessions are welcome."""
        self.parts = parts
        self._phase = Phase.READY

    def fail(self) -> None:
        """The model cannot be loaded; this worker will never be ready."""
        self._phase = Phase.FAILED

    def begin_drain(self) -> bool:
        """No more sessions and calls are welcome; False when that was so already."""
        was_draining = self._phase is Phase.DRAINING
        self._phase = Phase.DRAINING
        return not was_draining

    def require_ready(self) -> Parts:
        """What serves a session. Raises NotReady unless the worker is ready."""
        if self.phase is not Phase.READY or self.parts is None:
            raise NotReady(f"the worker is {self.phase.value}", retry_after_s=5)
        return self.parts

    @contextlib.contextmanager
    def call_under_way(self) -> Iterator[None]:
        """A call that a drain waits for."""
        self.calls_under_way += 1
        try:
            yield
        finally:
            self.calls_under_way -= 1
