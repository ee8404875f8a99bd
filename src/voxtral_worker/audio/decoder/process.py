"""The worker's side of the decoder: sends files to its processes and checks what comes back."""

import contextlib
import json
import logging
import socket
import threading
import time
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxtral_worker import metrics
from voxtral_worker.audio.decoder.wire import (
    ANSWER,
    BAD,
    BROKEN,
    CRASHED,
    REQUEST,
    SOUND,
    TIMED_OUT,
    TOO_LONG,
)
from voxtral_worker.audio.frames import SAMPLE_RATE
from voxtral_worker.errors import (
    AtCapacity,
    BadAudio,
    BadInput,
    EngineFailure,
    TooLarge,
    WorkerError,
)
from voxtral_worker.processes import Child, KeptChild
from voxtral_worker.running_time import running_s

Samples: TypeAlias = NDArray[np.float32]

log = logging.getLogger(__name__)

# Each file may take 512 MiB and one processor core.
FILES_AT_ONCE = 4
# Longer than the 120 s after which the fork server itself ends a child: no answer within this
# time means that the fork server hangs.
ANSWER_S = 130.0
# How long the fork server may take to start.
START_S = 60.0
# How long a file waits until fewer others are being decoded.
PLACE_S = 60.0
# How often a waiting thread looks whether its caller has given up.
LOOK_S = 0.2
MAX_SENTENCE_BYTES = 4_096
_MAIN = "from voxtral_worker.audio.decoder.child import main; main()"
_OUTCOMES = {
    SOUND: "decoded",
    BAD: "refused",
    TOO_LONG: "refused",
    TIMED_OUT: "timed_out",
    CRASHED: "crashed",
    BROKEN: "crashed",
}
_SENTENCES = {
    TIMED_OUT: "audio cannot be decoded: it takes too long",
    CRASHED: "audio cannot be decoded: the decoder failed on this file",
    BROKEN: "audio cannot be decoded: the decoder failed on this file",
}


class Closed(Exception):
    """The socket of a file was closed without an answer."""


class Stuck(Exception):
    """No answer came, though the fork server itself would have ended the child by now."""


class Decoder:
    """Decodes up to `FILES_AT_ONCE` files at a time. Its methods may be called from any thread.

    It starts its fork server with the first file, and starts another one when that is lost.
    """

    def __init__(self, main: str = _MAIN, *, answer_s: float = ANSWER_S) -> None:
        self._answer_s = answer_s
        self._places = threading.BoundedSemaphore(FILES_AT_ONCE)
        # Guards the fork server, and keeps apart what threads send to it.
        self._lock = threading.Lock()
        self._server = KeptChild(main)

    @property
    def process_id(self) -> int | None:
        """The fork server's; None while there is none."""
        return self._server.process_id

    def start(self) -> None:
        """Start the fork server without waiting for it."""
        with self._lock:
            self._server.get()

    def stop(self) -> None:
        """End the processes. The next file starts them again."""
        with self._lock:
            self._server.end()

    def decode(self, data: bytes, max_seconds: float, is_over: threading.Event) -> Samples:
        """Samples of a file, float32 [n], mono, 16 kHz. Blocks; setting `is_over` ends the wait.

        Raises BadAudio if the file cannot be decoded, TooLarge if it is longer than
        `max_seconds`, AtCapacity if it waited a minute for other files, EngineFailure if the
        decoder cannot be run.
        """
        deadline_s = running_s() + PLACE_S
        while not self._places.acquire(timeout=LOOK_S):
            _require_wanted(is_over)
            if running_s() > deadline_s:
                raise AtCapacity("too many files are being decoded", retry_after_s=5)
        try:
            return self._decode(data, max_seconds, is_over)
        finally:
            self._places.release()

    def _decode(self, data: bytes, max_seconds: float, is_over: threading.Event) -> Samples:
        # Try twice: a fork server ends for reasons that have nothing to do with this file.
        for _ in range(2):
            line, server = self._open_line()
            try:
                with line:
                    talk = _Talk(line, running_s() + self._answer_s, is_over)
                    kind, samples, sentence = talk.ask(data, max_seconds)
            except Stuck:
                self._lose(server, "it did not answer")
                break
            except Closed:
                # Either the fork server has gone and all its sockets with it, or this child alone.
                if server.has_ended():
                    self._lose(server, "its process ended")
                    continue
                kind, samples, sentence = CRASHED, None, "ended without an answer"
            metrics.files_decoded.labels(_OUTCOMES[kind]).inc()
            if samples is not None:
                return samples
            raise _error(kind, sentence)
        raise EngineFailure("the decoder of audio files cannot be run")

    def _open_line(self) -> tuple[socket.socket, Child]:
        """A socket to a new child, and the fork server that owns the child."""
        ours, theirs = socket.socketpair()
        ours.settimeout(LOOK_S)
        with self._lock, theirs:
            for _ in range(2):
                try:
                    server = self._server.get()
                    _require_ready(server)
                    socket.send_fds(server.line, [b"\0"], [theirs.fileno()])
                    return ours, server
                except OSError as error:
                    log.warning("decoder: cannot be reached (%s); starting it again", error)
                    self._server.end()
        ours.close()
        raise EngineFailure("the decoder of audio files cannot be run")

    def _lose(self, server: Child, why: str) -> None:
        log.warning("decoder: lost, because %s; starting it again", why)
        metrics.files_decoded.labels("lost").inc()
        with self._lock:
            self._server.lose(server)


class _Talk:
    """The exchange with a child about its one file."""

    def __init__(self, line: socket.socket, deadline_s: float, is_over: threading.Event) -> None:
        self._line = line
        self._deadline_s = deadline_s
        self._is_over = is_over

    def ask(self, data: bytes, max_seconds: float) -> tuple[int, Samples | None, str]:
        """Send a file. Returns the kind of answer, and samples or a sentence.

        Raises Closed or Stuck if there is no answer, BadInput if the caller has given up.
        """
        # ConnectionError: the child died before it had read the file. The fork server still
        # answers for it, so read the answer.
        with contextlib.suppress(ConnectionError):
            self._send(REQUEST.pack(max_seconds, len(data)))
            self._send(data)
        head = bytearray(ANSWER.size)
        self._receive(memoryview(head))
        kind, length = ANSWER.unpack(head)
        if kind == SOUND:
            return self._sound(length, max_seconds)
        text = bytearray(min(length, MAX_SENTENCE_BYTES))
        self._receive(memoryview(text))
        return kind if kind in _OUTCOMES else CRASHED, None, text.decode(errors="replace")

    def _sound(self, length: int, max_seconds: float) -> tuple[int, Samples | None, str]:
        # Do not trust the child: a malicious file may have taken it over. So its answer is
        # bounded by what was asked for, and every sample is checked.
        if not length or length % 4 or length > 4 * SAMPLE_RATE * (max_seconds + 1):
            return CRASHED, None, f"{length} bytes of samples"
        samples = np.empty(length // 4, np.float32)
        self._receive(samples.data.cast("B"))
        if not (samples.min() >= -1 and samples.max() <= 1):
            return CRASHED, None, "samples beyond full scale"
        return SOUND, samples, ""

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            with contextlib.suppress(TimeoutError):
                view = view[self._line.send(view) :]
            self._require_time()

    def _receive(self, view: memoryview) -> None:
        while view:
            try:
                count = self._line.recv_into(view)
            except TimeoutError:
                self._require_time()
                continue
            except ConnectionError as error:
                raise Closed from error
            if not count:
                raise Closed
            view = view[count:]

    def _require_time(self) -> None:
        _require_wanted(self._is_over)
        if running_s() > self._deadline_s:
            raise Stuck


def _require_ready(server: Child) -> None:
    """Wait until a fork server has started. Raises OSError."""
    if server.is_ready:
        return
    started_s = time.monotonic()
    server.line.settimeout(START_S)
    line = b""
    while not line.endswith(b"\n"):
        got = server.line.recv(1024)
        if not got:
            raise ConnectionError("it did not start")
        line += got
    server.is_ready = True
    log.info(
        "decoder: process %d is ready after %.2f s (%s)",
        server.process_id,
        time.monotonic() - started_s,
        ", ".join(json.loads(line)),
    )


def _require_wanted(is_over: threading.Event) -> None:
    if is_over.is_set():
        raise BadInput("reading the file was cancelled")


def _error(kind: int, sentence: str) -> WorkerError:
    if kind == TOO_LONG:
        return TooLarge(sentence)
    if kind == BAD:
        return BadAudio(sentence)
    log.warning("decoder: the process of a file %s: %s", _OUTCOMES[kind], sentence)
    return BadAudio(_SENTENCES[kind])
