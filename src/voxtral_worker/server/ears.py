"""The ears of a session: its bytes of audio become frames that it hears.

A stream of audio that stops in mid-turn is noticed too.
"""

import asyncio
import time
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from voxtral_worker import metrics
from voxtral_worker.audio.stream import AudioStream
from voxtral_worker.audio.watch import FormatWatch
from voxtral_worker.errors import BadAudio, WorkerError
from voxtral_worker.sessions.effects import Effect
from voxtral_worker.sessions.session import Session
from voxtral_worker.turns.detector import SpeechPaused

if TYPE_CHECKING:
    # The server listens before these bring PyTorch in.
    from voxtral_worker.turns.completeness import Completeness
    from voxtral_worker.turns.vad import Vad

# Frames the VAD is asked about at a time, so that a long chunk is no long wait for others.
FRAMES_AT_ONCE = 64
# A score that is not there by then is of no use: somebody may be going on to speak.
SCORE_PATIENCE_S = 0.4
# A timer of the event loop comes this late only when the machine is busy.
LATE_S = 0.1


class Ears:
    """One chunk is heard at a time; while it is, no stall is looked for."""

    def __init__(
        self,
        session: Session,
        vad: "Vad",
        scorer: "Completeness | None",
        context: Context,
        perform: Callable[[list[Effect]], None],
        *,
        is_open: Callable[[], bool],
        is_behind: Callable[[], bool],
    ) -> None:
        """`is_open`: whether audio can come; `is_behind`: whether some has come and waits."""
        self._session = session
        self._vad = vad
        self._scorer = scorer
        # The pause that is being scored, its score to be, and since when it is waited for.
        self._asked: tuple[SpeechPaused, asyncio.Future[float | None], float] | None = None
        self._context = context
        self._perform = perform
        self._is_open = is_open
        self._is_behind = is_behind
        self._loop = asyncio.get_running_loop()
        self._stream = AudioStream(session.config.encoding, session.config.sample_rate)
        self._format = (session.config.encoding, session.config.sample_rate)
        self._watch = FormatWatch(session.config.encoding)
        self._stall_timer: asyncio.TimerHandle | None = None

    def look_anew(self) -> None:
        """Another stream of audio begins, which may look like something else."""
        self._watch = FormatWatch(self._session.config.encoding)

    def look(self, chunk: bytes, refuse: Callable[[WorkerError], None]) -> None:
        """Tell once that a stream looks like something else; it is taken all the same."""
        if (told := self._watch.look(chunk)) is not None:
            refuse(BadAudio(told))

    async def hear(self, chunk: bytes, refuse: Callable[[WorkerError], None]) -> None:
        """Hear a chunk in the session's format; `refuse` is told of one that looks wrong.

        Raises RateLimited, BadAudio or EngineFailure.
        """
        # While audio is being heard, it is the worker that is late.
        self.stop_watching()
        try:
            self._use_format()
            self.look(chunk, refuse)
            await self._hear_chunk(chunk)
        finally:
            self.watch_for_stall()

    def count(self, chunk: bytes) -> None:
        """Count a chunk as received."""
        self._session.listening.audio_bytes_received += len(chunk)
        metrics.audio_bytes.inc(len(chunk))

    def ask_for_score(self, pause: SpeechPaused, samples: NDArray[np.float32]) -> None:
        """Have a pause scored; nobody waits until the score is due."""
        if self._scorer is None:
            # A session that was begun at another worker.
            score: asyncio.Future[float | None] = self._loop.create_future()
            score.set_result(None)
        else:
            score = self._scorer.ask(samples)
        self._asked = (pause, score, time.monotonic())
        score.add_done_callback(partial(self._tell_score, pause), context=self._context)

    def watch_for_stall(self) -> None:
        """Look whether audio goes on to come, as long as it should."""
        self.stop_watching()
        if self._session.listening.may_stall and self._is_open():
            self._look_for_stall_in(self._session.listening.stall_s)

    def stop_watching(self) -> None:
        """Look no longer."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    async def _hear_chunk(self, chunk: bytes) -> None:
        started_s = time.monotonic()
        frames = self._stream.push(chunk)
        try:
            self._session.listening.require_room(frames.nbytes)
        except WorkerError:
            # What was heard so far can be answered; that may make room.
            self._perform(self._session.listening.stall(time.monotonic()))
            raise
        self.count(chunk)
        for start in range(0, len(frames), FRAMES_AT_ONCE):
            end = min(start + FRAMES_AT_ONCE, len(frames))
            await self._hear_frames(frames[start:end], more_frames=len(frames) - end)
        metrics.audio_processing.observe(time.monotonic() - started_s)

    def _use_format(self) -> None:
        config = self._session.config
        if self._format != (config.encoding, config.sample_rate):
            self._format = (config.encoding, config.sample_rate)
            self._stream = AudioStream(config.encoding, config.sample_rate)
            self.look_anew()

    async def _hear_frames(self, frames: NDArray[np.float32], more_frames: int) -> None:
        listening = self._session.listening
        probabilities = (await self._vad.listen(self._session.session_id, frames)).tolist()
        start = listening.detector.frames_heard
        while (heard := listening.detector.frames_heard - start) < len(frames):
            if listening.scoring.is_due:
                await self._wait_for_score()
            effects = listening.hear(
                frames[heard:], probabilities[heard:], time.monotonic(), more_frames=more_frames
            )
            self._perform(effects)

    async def _wait_for_score(self) -> None:
        """Hear on only when the pause has its score, or has waited for it long enough."""
        # A config that was changed meanwhile may have asked for none.
        assert self._asked is not None
        pause, score, since_s = self._asked
        wait_s = since_s + SCORE_PATIENCE_S - time.monotonic()
        await asyncio.wait([score], timeout=max(0.0, wait_s))
        self._tell_score(pause, score)

    def _tell_score(self, pause: SpeechPaused, score: "asyncio.Future[float | None]") -> None:
        value = score.result() if score.done() and not score.cancelled() else None
        self._perform(self._session.listening.scoring.tell(pause, value, time.monotonic()))

    def _look_for_stall_in(self, wait_s: float) -> None:
        due_s = self._loop.time() + wait_s
        self._stall_timer = self._loop.call_at(due_s, self._stall, due_s, context=self._context)

    def _stall(self, due_s: float) -> None:
        # A loop that is late has not yet read what came meanwhile.
        is_late = self._loop.time() - due_s > LATE_S
        if is_late or self._is_behind():
            self._look_for_stall_in(LATE_S)
        else:
            self._perform(self._session.listening.stall(time.monotonic()))
