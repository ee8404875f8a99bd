"""The worker's side of the embedded voice: sends texts to its process and receives speech."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field

import numpy as np

from voxtral_worker import metrics
from voxtral_worker.errors import SpeechFailed
from voxtral_worker.processes import Child, KeptChild
from voxtral_worker.running_time import MOST_GAP_S, running_s
from voxtral_worker.speech.voice import Samples
from voxtral_worker.speech.wire import (
    CANCEL,
    END,
    FAILED,
    HEAD,
    MAX_BODY_BYTES,
    READY,
    SAY,
    SOUND,
    asked,
    packed,
)

log = logging.getLogger(__name__)

START_S = 60.0
# The process counts as lost if texts wait and no message comes for so long. A piece takes 100 ms.
SILENCE_S = 15.0
# A voice that fails at each start must not be started all the time: it would take the processor
# from the model.
RESTART_S = 5.0
_MAIN = "from voxtral_worker.speech.child import main; main()"


class Lost(Exception):
    """The process has ended, or had to be ended."""


@dataclass
class _Process:
    """One life of the process."""

    child: Child
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    # For each text that is being spoken, its messages (kind and body); None: the process is lost.
    saying: dict[int, "asyncio.Queue[tuple[int, bytes] | None]"] = field(default_factory=dict)
    has_started: asyncio.Event = field(default_factory=asyncio.Event)
    is_lost: bool = False
    reading: "asyncio.Task[None] | None" = None


class VoiceProcess:
    """Speaks the texts of all callers in a process, which is started again when it is lost.

    Its methods belong to one event loop. The thread of that loop must outlive the process: Linux
    ends a child when the thread that started it ends.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        main: str = _MAIN,
        environment: Mapping[str, str] | None = None,
        *,
        silence_s: float = SILENCE_S,
    ) -> None:
        """`names`: the names of the voices, the default first."""
        self._names = names
        self._child = KeptChild(main, environment, rest_s=RESTART_S)
        self._silence_s = silence_s
        self._process: _Process | None = None
        self._number = 0
        # Held while one is started: all callers wait for the same.
        self._starting = asyncio.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the voices, the default first."""
        return self._names

    @property
    def process_id(self) -> int | None:
        """The process that says texts; None while there is none."""
        return self._child.process_id

    async def load(self) -> None:
        """Start the process, and wait until it is ready. Raises SpeechFailed."""
        try:
            await self._ready()
        except Lost:
            raise SpeechFailed("the voice's process did not start") from None

    async def say(self, text: str, voice: str, speed: float) -> AsyncGenerator[Samples, None]:
        """See Voice. If the process is lost before the first sound, the next one tries again."""
        has_begun = False
        for is_last in (False, True):
            try:
                process = await self._ready()
                async with contextlib.aclosing(self._say(process, text, voice, speed)) as pieces:
                    async for samples in pieces:
                        has_begun = True
                        yield samples
            except Lost:
                if has_begun or is_last:
                    raise SpeechFailed("the voice's process was lost") from None
            else:
                return

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        self._child.end()
        assert process.reading is not None
        process.reading.cancel()
        await asyncio.wait([process.reading])

    async def _say(
        self, process: _Process, text: str, voice: str, speed: float
    ) -> AsyncGenerator[Samples, None]:
        self._number = number = (self._number + 1) % (1 << 32)
        said: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        process.saying[number] = said
        process.writer.write(packed(SAY, number, asked(text, voice, speed)))
        try:
            while (message := await said.get()) is not None:
                kind, body = message
                if kind == END:
                    return
                if kind == FAILED:
                    log.warning("speech: a text could not be said: %s", ascii(body.decode()))
                    raise SpeechFailed("the voice failed")
                yield np.frombuffer(body, np.float32)
            raise Lost
        finally:
            # No one takes the rest of its speech.
            if process.saying.pop(number, None) is not None and not process.is_lost:
                process.writer.write(packed(CANCEL, number))

    async def _ready(self) -> _Process:
        """The process, when it has started. Raises Lost."""
        async with self._starting:
            process = self._process
            if process is None:
                process = self._process = await self._start()
        await process.has_started.wait()
        if process.is_lost:
            raise Lost
        return process

    async def _start(self) -> _Process:
        try:
            child = self._child.get()
        except OSError as error:
            log.warning("speech: the voice's process cannot be started (%s)", error)
            raise Lost from None
        try:
            # The streams own the socket from now on: an event loop must see it closed by them.
            line = socket.socket(fileno=child.line.detach())
            reader, writer = await asyncio.open_connection(sock=line)
        except BaseException:
            self._child.end()
            raise
        process = _Process(child, reader, writer)
        process.reading = asyncio.create_task(self._read(process), name="voice")
        return process

    async def _read(self, process: _Process) -> None:
        why: str | None = "its messages cannot be read"
        try:
            why = await self._pass_on(process)
        except asyncio.CancelledError:
            # The worker stops: nothing is lost.
            why = None
            raise
        finally:
            self._lose(process, why)

    async def _pass_on(self, process: _Process) -> str:
        """Pass messages on to the texts until the process is lost; returns the reason."""
        since_s = started_s = running_s()
        was_saying = set(process.saying)
        # Kept if the wait for the rest of the message is interrupted.
        head = b""
        while True:
            limit_s = self._silence_s if process.child.is_ready else START_S
            try:
                # In short waits: only time in which this process runs counts.
                async with asyncio.timeout(min(limit_s, MOST_GAP_S)):
                    head = head or await process.reader.readexactly(HEAD.size)
                    kind, number, length = HEAD.unpack(head)
                    if length > MAX_BODY_BYTES or (kind == SOUND and length % 4):
                        return "what it sends is no speech"
                    body = await process.reader.readexactly(length)
            except TimeoutError:
                if running_s() - since_s < limit_s:
                    continue
                # A text that came in the meantime has not waited for so long yet.
                if was_saying & process.saying.keys() or not process.child.is_ready:
                    return "it does not answer"
            except (OSError, asyncio.IncompleteReadError):
                return "its process ended"
            else:
                head = b""
                self._take(process, kind, number, body, running_s() - started_s)
            since_s, was_saying = running_s(), set(process.saying)

    def _take(self, process: _Process, kind: int, number: int, body: bytes, after_s: float) -> None:
        if kind == READY:
            process.child.is_ready = True
            process.has_started.set()
            log.info(
                "speech: the voice took %.2f s to load in process %d (%s)",
                after_s,
                process.child.process_id,
                body.decode(),
            )
        elif (said := process.saying.get(number)) is not None:
            said.put_nowait((kind, body))

    def _lose(self, process: _Process, why: str | None) -> None:
        """End the process and its texts. `why` is logged; None: it is ended on purpose."""
        process.is_lost = True
        process.writer.close()
        # False after `close`, which has ended it.
        if self._child.lose(process.child):
            self._process = None
            if why is not None:
                log.warning("speech: the voice is lost, as %s; it is started again", why)
                metrics.speech_restarts.inc()
        process.has_started.set()
        for said in process.saying.values():
            said.put_nowait(None)
