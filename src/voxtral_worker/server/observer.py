"""Passes the events of a session on to metrics, log, traces, admission and the session store."""

import logging
import time
from collections.abc import Callable

from voxtral_worker import metrics
from voxtral_worker.logs import session_mark
from voxtral_worker.sessions import events
from voxtral_worker.sessions.admission import Admission
from voxtral_worker.tracing import Tracing

log = logging.getLogger(__name__)

# Turns whose first sound is waited for. Turns that are never spoken stay in the table until newer
# ones push them out.
MOST_UNHEARD = 64
STAGES = ("endpoint", "queue", "encode", "prefill", "first_token", "total")


class Observer:
    """Sees every event of one session, in order, before it is sent to the client."""

    def __init__(
        self,
        session_id: str,
        tracing: Tracing | None = None,
        admission: Admission | None = None,
        note_change: Callable[[str], None] | None = None,
    ) -> None:
        """`note_change` gets the session's id when its record in the store is out of date."""
        self._note_change = note_change
        self._session_id = session_id
        self._tracing = tracing
        self._admission = admission
        # For turns without an answer yet: when each was over. The session bounds how many wait.
        self._decided_s: dict[str, float] = {}
        # For the latest turns without sound yet: when each was over.
        self._unheard_s: dict[str, float] = {}

    def see(self, event: events.Event, now_s: float) -> None:
        """Take an event; `now_s` is the time of the monotonic clock."""
        if self._note_change is not None and isinstance(event, _CHANGES_RECORD):
            self._note_change(self._session_id)
        match event:
            case events.SpeechStarted():
                self._talks(now_s)
            case events.Accepted(turn_id):
                self._decided_s[turn_id] = self._unheard_s[turn_id] = now_s
                if len(self._unheard_s) > MOST_UNHEARD:
                    del self._unheard_s[next(iter(self._unheard_s))]
                self._talks(now_s)
            case events.Spoken(turn_id):
                if (decided_s := self._unheard_s.pop(turn_id, None)) is not None:
                    metrics.stage_seconds.labels("first_sound").observe(now_s - decided_s)
            case events.TurnReopened():
                metrics.turns_reopened.inc()
                self._talks(now_s)
            case events.NoSpeech():
                metrics.turns_without_speech.inc()
            case events.Answered():
                self._answered(event, now_s)
            case events.Failed():
                metrics.errors_sent.labels(event.error.code).inc()
                self._failed(event, now_s)
            case events.Refused(error):
                metrics.errors_sent.labels(error.code).inc()

    def _talks(self, now_s: float) -> None:
        if self._admission is not None:
            self._admission.talks(self._session_id, now_s)
            metrics.sessions_talking.set(self._admission.talking(now_s))

    def _answered(self, answered: events.Answered, now_s: float) -> None:
        self._decided_s.pop(answered.turn_id, None)
        metrics.turns_total.labels(answered.source, answered.finish_reason).inc()
        for stage in STAGES:
            seconds = float(answered.metrics[f"{stage}_ms"]) / 1000
            metrics.stage_seconds.labels(stage).observe(seconds)
        if self._admission is not None:
            self._admission.answered(float(answered.metrics["first_token_ms"]), now_s)
        if self._tracing is not None:
            turn = {
                "turn_id": answered.turn_id,
                "source": answered.source,
                "finish_reason": answered.finish_reason,
                "usage": {"prompt_tokens": answered.usage.prompt_tokens},
                "metrics": answered.metrics,
            }
            self._tracing.answered(session_mark(self._session_id), turn, time.time_ns())
        # An answer with tool calls is logged too: a turn has one line for each response.
        _log_turn(answered)

    def _failed(self, failed: events.Failed, now_s: float) -> None:
        waited_s = now_s - self._decided_s.pop(failed.turn_id, now_s)
        if self._tracing is not None:
            self._tracing.failed(
                session_mark(self._session_id),
                failed.turn_id,
                failed.error.code,
                waited_s,
                time.time_ns(),
            )


# The events after which the session's record in the store is out of date.
_CHANGES_RECORD = (
    events.Answered,
    events.ConfigChanged,
    events.HistoryCleared,
    events.HistoryTrimmed,
    events.Transcript,
    events.TurnReopened,
)


def _log_turn(answered: events.Answered) -> None:
    log.info(
        "turn answered",
        extra={
            "turn_id": answered.turn_id,
            "source": answered.source,
            "finish_reason": answered.finish_reason,
            "tokens": answered.metrics["tokens"],
            "first_token_ms": answered.metrics["first_token_ms"],
            "total_ms": answered.metrics["total_ms"],
        },
    )
    # What people say is private: it is logged only at DEBUG level.
    log.debug("text answered", extra={"turn_id": answered.turn_id, "text": answered.text})
