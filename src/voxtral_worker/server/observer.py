"""Shows what a session says to those who count it: metrics, log, traces, admission, store."""

import logging
import time
from collections.abc import Callable

from voxtral_worker import metrics
from voxtral_worker.sessions.admission import Admission
from voxtral_worker.sessions.messages import ErrorMessage, ServerMessage, Status, TextResponse
from voxtral_worker.tracing import Tracing

log = logging.getLogger(__name__)

STAGES = ("endpoint", "queue", "encode", "prefill", "first_token", "total")


class Observer:
    """Sees every message of one session, in order, before it is sent."""

    def __init__(
        self,
        session_id: str,
        tracing: Tracing | None = None,
        admission: Admission | None = None,
        note_change: Callable[[str], None] | None = None,
    ) -> None:
        """`note_change` is told the session's id when what another worker needs has changed."""
        self._note_change = note_change
        self._session_id = session_id
        self._tracing = tracing
        self._admission = admission
        # When turns were over that have no answer yet; at most as many as may wait.
        self._decided_s: dict[str, float] = {}

    def see(self, message: ServerMessage, now_s: float) -> None:
        """Take a message that is sent at `now_s` of the monotonic clock."""
        if self._note_change is not None and _changes_record(message):
            self._note_change(self._session_id)
        match message:
            case Status("speech_started"):
                self._talks(now_s)
            case Status("processing", str(turn_id)):
                self._decided_s[turn_id] = now_s
                self._talks(now_s)
            case Status("no_speech"):
                metrics.turns_without_speech.inc()
            case TextResponse():
                self._answered(message, now_s)
            case ErrorMessage():
                self._failed(message, now_s)

    def _talks(self, now_s: float) -> None:
        if self._admission is not None:
            self._admission.talks(self._session_id, now_s)
            metrics.sessions_talking.set(self._admission.talking(now_s))

    def _answered(self, response: TextResponse, now_s: float) -> None:
        self._decided_s.pop(response.turn_id, None)
        metrics.turns_total.labels(response.source, response.finish_reason).inc()
        for stage in STAGES:
            seconds = float(response.metrics[f"{stage}_ms"]) / 1000
            metrics.stage_seconds.labels(stage).observe(seconds)
        if self._admission is not None:
            self._admission.answered(float(response.metrics["first_token_ms"]), now_s)
        if self._tracing is not None:
            self._tracing.answered(self._session_id, response.fields(), time.time_ns())
        _log_turn(response)

    def _failed(self, message: ErrorMessage, now_s: float) -> None:
        metrics.errors_sent.labels(message.error.code).inc()
        if message.turn_id is None:
            return
        waited_s = now_s - self._decided_s.pop(message.turn_id, now_s)
        if self._tracing is not None:
            self._tracing.failed(
                self._session_id, message.turn_id, message.error.code, waited_s, time.time_ns()
            )


def _changes_record(message: ServerMessage) -> bool:
    match message:
        case TextResponse() | Status("config_updated" | "history_cleared" | "history_trimmed"):
            return True
    return False


def _log_turn(response: TextResponse) -> None:
    log.info(
        "turn answered",
        extra={
            "turn_id": response.turn_id,
            "source": response.source,
            "finish_reason": response.finish_reason,
            "tokens": response.metrics["tokens"],
            "first_token_ms": response.metrics["first_token_ms"],
            "total_ms": response.metrics["total_ms"],
        },
    )
    # What people say is for the eyes of whoever asks for this level.
    log.debug("text answered", extra={"turn_id": response.turn_id, "text": response.text})
