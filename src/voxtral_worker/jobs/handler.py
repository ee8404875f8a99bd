"""The handler that RunPod's SDK calls for each job.

The SDK needs a real async generator function. It runs it on its own loop, and posts each piece
with one awaited call; `run.py` describes what follows from that. An error leaves as the piece
`{"error": "<sentence> (CODE)"}`: the SDK then fails the job with that sentence. An exception
would add a traceback to it.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from voxtral_worker import metrics
from voxtral_worker.audio.recordings import Recordings
from voxtral_worker.engine.answer import Engine
from voxtral_worker.errors import BadInput, NotReady, WorkerError
from voxtral_worker.jobs.audio import answer_about_audio, transcribe
from voxtral_worker.jobs.health import report_health
from voxtral_worker.jobs.lease import Leases, hold_lease
from voxtral_worker.jobs.outlet import Outlet, Piece
from voxtral_worker.jobs.run import JobRun
from voxtral_worker.jobs.schema import (
    KEYS,
    AudioJob,
    HealthJob,
    Job,
    SessionJob,
    TextJob,
    TranscribeJob,
    read_input,
)
from voxtral_worker.jobs.speech import AnswerSpeaker
from voxtral_worker.jobs.text import answer_texts
from voxtral_worker.settings import Settings
from voxtral_worker.speech.speech import Speech
from voxtral_worker.turns.recording import FindSpeech, take_all_as_speech

log = logging.getLogger(__name__)

# A job that was taken waits for the recordings of other jobs. It does not fail because of them.
PLACE_TIMEOUT_S = 30 * 60.0
MOST_JOBS_WAITING = 1_024

# If the SDK does not ask for the next piece within this time, it has given up the job. Its own
# three attempts at a call, with pauses of 2 and 5 s, are well within it.
STALL_S = 30.0
# Limit for stops of jobs that have not begun, and for finished jobs whose stop may still come.
STOPS_REMEMBERED = 256


class JobHandler:
    """Answers every job once: with its pieces, or with one error.

    Owned by the loop that runs the jobs.
    """

    def __init__(
        self,
        engine: Engine,
        health: Callable[[], dict[str, Any]],
        settings: Settings,
        leases: Leases | None = None,
        *,
        find_speech: FindSpeech = take_all_as_speech,
        speech: Speech | None = None,
        stall_s: float = STALL_S,
    ) -> None:
        self._engine = engine
        self._health = health
        self._settings = settings
        self._leases = leases
        self._find_speech = find_speech
        self._speech = speech
        self._stall_s = stall_s
        self._recordings = Recordings(PLACE_TIMEOUT_S, MOST_JOBS_WAITING)
        # The jobs whose work is under way.
        self._runs: set[JobRun] = set()
        # The SDK's task of each job, with the job's id.
        self._readers: dict[asyncio.Task[Any], str] = {}
        # Jobs that were stopped before they began, and jobs that are over.
        self._early_stops: deque[str] = deque(maxlen=STOPS_REMEMBERED)
        self._over: deque[str] = deque(maxlen=STOPS_REMEMBERED)
        self._is_draining = False
        # The error for all jobs that are still open when the drain's time is over.
        self._stopping: NotReady | None = None

    @property
    def open_jobs(self) -> int:
        """Number of jobs whose last piece the SDK has not delivered yet."""
        return len(self._readers)

    async def handle(self, job: Mapping[str, Any]) -> AsyncIterator[Piece]:
        """Yield the pieces of a job's output. It never raises: an error is the last piece."""
        job_id, value = str(job.get("id", "unknown")), job.get("input")
        self._remember_reader(job_id)
        outcome, code = "stopped", None
        started_s = time.monotonic()
        run: JobRun | None = None
        try:
            await self._leave_if_stopped(job_id)
            run = self._begin(job_id, read_input(value))
            # Between `hand_out` and `taken` the SDK delivers the piece. If it never comes back,
            # the run ends by itself: this generator would not notice.
            while (piece := await run.outlet.take()) is not None:
                run.hand_out()
                yield piece
                run.taken()
            outcome = "finished"
        except WorkerError as error:
            outcome = "refused" if isinstance(error, BadInput) else "failed"
            code = error.code
            # At DEBUG level, because the sentence may quote the input, which is private.
            log.debug("job not done: %s", error.message, extra={"job_id": job_id})
            metrics.errors_sent.labels(error.code).inc()
            if run is not None and run.streams:
                # The SDK does not put errors into the stream. This piece is for callers who read
                # only the stream.
                yield {"failed": error.message, "code": error.code}
            yield {"error": f"{error.message} ({error.code})"}
        finally:
            # Also when the SDK closes the generator or cancels its task: the outcome is `stopped`.
            metrics.jobs_total.labels(_kind(value), outcome).inc()
            fields = {"job_id": job_id, "job_type": _kind(value), "outcome": outcome, "code": code}
            seconds = round(time.monotonic() - started_s, 3)
            log.info("job over", extra={**fields, "seconds": seconds})
            if run is not None:
                self._runs.discard(run)
                run.stop()

    def stops_arrived(self, job_ids: Sequence[str]) -> list[str]:
        """Take the platform's stops. Returns those of jobs that have begun: the SDK ends these.

        A job that is still on its way, or in the SDK's queue, is ended here when it begins.
        """
        begun = {*self._readers.values(), *self._over}
        self._early_stops.extend(job_id for job_id in job_ids if job_id not in begun)
        return [job_id for job_id in job_ids if job_id in begun]

    def drain(self, timeout_s: float) -> None:
        """Shut down: jobs that are not finished after `timeout_s` fail with an error."""
        if self._is_draining:
            return
        self._is_draining = True
        stopping = NotReady(
            f"the worker is stopping and the job could not be finished within {timeout_s:g} s"
        )
        asyncio.get_running_loop().call_later(timeout_s, self._give_up, stopping)

    def give_up(self) -> None:
        """Shut down now: jobs that are not finished fail with an error."""
        self._give_up(NotReady("the worker is stopping at once"))

    async def _leave_if_stopped(self, job_id: str) -> None:
        if job_id not in self._early_stops:
            return
        self._early_stops.remove(job_id)
        log.info("job stopped before it began", extra={"job_id": job_id})
        reader = asyncio.current_task()
        if reader is not None:
            # The SDK stops a job by cancelling its task. Do the same, so that it counts the job as
            # stopped. The cancel takes effect at the next await.
            reader.cancel()
            await asyncio.sleep(0)

    def _begin(self, job_id: str, job: Job) -> JobRun:
        if self._stopping is not None:
            raise self._stopping
        # A lease holds no place in the engine, so it may wait for a slow SDK without end.
        holds_engine = not isinstance(job, SessionJob)
        run = JobRun(
            job_id,
            self._work_of(job),
            streams=getattr(job, "stream", False),
            stall_s=self._stall_s if holds_engine else None,
        )
        self._runs.add(run)
        return run

    def _work_of(self, job: Job) -> Callable[[Outlet], Awaitable[None]]:
        engine = self._engine
        match job:
            case HealthJob():
                return partial(report_health, self._health)
            case TextJob():
                at_once = self._settings.max_batch_size
                speaker = AnswerSpeaker(self._speech, job.spoken, job.language)
                return lambda outlet: answer_texts(job, engine, outlet, at_once, speaker)
            case TranscribeJob():
                return lambda outlet: transcribe(
                    job, engine, outlet, self._recordings, self._find_speech
                )
            case AudioJob():
                speaker = AnswerSpeaker(self._speech, job.spoken, job.options.language)
                return lambda outlet: answer_about_audio(
                    job, engine, outlet, self._recordings, speaker
                )
            case SessionJob():
                if self._leases is None:
                    raise NotReady("this worker serves no sessions")
                leases, settings = self._leases, self._settings
                return lambda outlet: hold_lease(
                    job, leases, outlet, settings, lambda: self._is_draining
                )

    def _give_up(self, stopping: NotReady) -> None:
        self._stopping = stopping
        for run in list(self._runs):
            run.fail(stopping)

    def _remember_reader(self, job_id: str) -> None:
        reader = asyncio.current_task()
        if reader is not None:
            if reader not in self._readers:
                reader.add_done_callback(self._forget_reader)
            self._readers[reader] = job_id

    def _forget_reader(self, reader: asyncio.Task[Any]) -> None:
        self._over.append(self._readers.pop(reader))


def _kind(value: object) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) and kind in KEYS else "unknown"
