"""The phase of the worker, the parts that cold start has made, and the calls under way."""

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
    # For types only: they import PyTorch, and the server must listen before that is loaded.
    from voxtral_worker.engine.engine import Engine
    from voxtral_worker.engine.model import LoadedModel
    from voxtral_worker.turns.completeness import Completeness
    from voxtral_worker.turns.vad import Vad


class Phase(Enum):
    """The phase of the worker; the values are the statuses of `GET /health`."""

    STARTING = "starting"
    READY = "healthy"
    DRAINING = "draining"
    FAILED = "unhealthy"


@dataclass(frozen=True)
class Parts:
    """What cold start makes and the server uses."""

    engine: "Engine"
    vad: "Vad"
    loaded: "LoadedModel"
    tracing: Tracing | None = None
    admission: Admission | None = None
    # None: no turn model is installed.
    completeness: "Completeness | None" = None
    # None: SPEECH is off.
    speech: Speech | None = None


class Lifecycle:
    """Goes from starting to ready to draining, or to failed. Owned by the server's loop."""

    def __init__(self) -> None:
        self.started_s = time.monotonic()
        self.started_at = int(time.time())
        # None: the worker is not ready yet.
        self.parts: Parts | None = None
        # REST calls that a drain waits for.
        self.calls_under_way = 0
        self.cold_start = ColdStart()
        self._phase = Phase.STARTING

    @property
    def phase(self) -> Phase:
        """The phase now. It is FAILED if the engine or the VAD has died."""
        parts = self.parts
        is_lost = parts is not None and not (parts.engine.is_healthy and parts.vad.is_alive)
        if self._phase is Phase.READY and is_lost:
            return Phase.FAILED
        return self._phase

    def become_ready(self, parts: Parts) -> None:
        """Take sessions from now on: the model is loaded and warm."""
        self.parts = parts
        self._phase = Phase.READY

    def fail(self) -> None:
        """Refuse sessions for good: the model cannot be loaded."""
        self._phase = Phase.FAILED

    def begin_drain(self) -> bool:
        """Refuse new sessions and calls from now on. False: it was draining already."""
        was_draining = self._phase is Phase.DRAINING
        self._phase = Phase.DRAINING
        return not was_draining

    def require_ready(self) -> Parts:
        """The parts of the worker. Raises NotReady unless it is ready."""
        if self.phase is not Phase.READY or self.parts is None:
            raise NotReady(f"the worker is {self.phase.value}", retry_after_s=5)
        return self.parts

    @contextlib.contextmanager
    def call_under_way(self) -> Iterator[None]:
        """Count a call for the length of a `with` block: a drain waits for it."""
        self.calls_under_way += 1
        try:
            yield
        finally:
            self.calls_under_way -= 1
