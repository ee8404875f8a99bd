"""The main program of the embedded voice's process, which speaks the texts of all sessions.

It ends when the worker closes its socket. If the worker is killed, Linux ends it too.
"""

import contextlib
import heapq
import resource
import select
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from voxtral_worker import processes
from voxtral_worker.speech.embedded import EmbeddedVoice
from voxtral_worker.speech.voice import Samples
from voxtral_worker.speech.wire import (
    CANCEL,
    END,
    FAILED,
    READY,
    SAY,
    SOUND,
    Unpacker,
    packed,
    read_asked,
)

RECEIVED_BYTES = 1 << 16
# Memory in addition to what the process uses once its voice is loaded. The longest piece takes a
# tenth of it.
MEMORY_BYTES = 1 << 30
# Each character of a text delays it by so many seconds. The first sentence of an answer is often
# short, and someone waits for it. An answer that has begun has sound ahead of its listener.
PATIENCE_S = 0.01


class Mouth(Protocol):
    """The model that makes speech. Tests replace it."""

    def load(self) -> None:
        """Load the model; this may take a second."""

    def say(self, text: str, voice: str, speed: float) -> Iterator[Samples]:
        """Speech, float32 [n] at VOICE_RATE; each step takes a fraction of a second."""


@dataclass(order=True)
class Text:
    """A text that is being spoken. Of several, the one with the lowest `due_s` is continued."""

    due_s: float
    number: int
    pieces: Iterator[Samples] = field(compare=False)


def main(mouth: Mouth | None = None, memory_bytes: int = MEMORY_BYTES) -> None:
    """Serve the worker until it closes its socket, which is this process's standard input."""
    line, _ = processes.take_socket()
    processes.control_process(processes.SET_PDEATHSIG, signal.SIGKILL)
    mouth = mouth or EmbeddedVoice()
    mouth.load()
    held = confine(memory_bytes)
    # ConnectionError: the worker has gone.
    with contextlib.suppress(ConnectionError):
        line.sendall(packed(READY, 0, ", ".join(held).encode()))
        Sayer(line, mouth).run()


class Sayer:
    """Makes one piece of speech at a time, and reads messages between two pieces."""

    def __init__(self, line: socket.socket, mouth: Mouth) -> None:
        self._line = line
        self._mouth = mouth
        self._unpacker = Unpacker()
        self._waiting: list[Text] = []

    def run(self) -> None:
        """Take and speak texts until the worker closes its end of the socket."""
        while True:
            ready, _, _ = select.select([self._line], [], [], 0 if self._waiting else None)
            if ready:
                data = self._line.recv(RECEIVED_BYTES)
                if not data:
                    return
                for kind, number, body in self._unpacker.push(data):
                    self._take(kind, number, body)
            elif self._waiting:
                self._continue(heapq.heappop(self._waiting))

    def _take(self, kind: int, number: int, body: bytes) -> None:
        if kind == CANCEL:
            self._waiting = [text for text in self._waiting if text.number != number]
            heapq.heapify(self._waiting)
        elif kind == SAY:
            text, voice, speed = read_asked(body)
            due_s = time.monotonic() + PATIENCE_S * len(text)
            heapq.heappush(self._waiting, Text(due_s, number, self._mouth.say(text, voice, speed)))

    def _continue(self, text: Text) -> None:
        try:
            samples = next(text.pieces, None)
        except Exception as error:  # noqa: BLE001 - the worker logs it, and the caller gets it
            told = f"{type(error).__name__}: {error}"[:1000]
            self._line.sendall(packed(FAILED, text.number, told.encode("utf-8", "replace")))
            return
        if samples is None:
            self._line.sendall(packed(END, text.number))
            return
        self._line.sendall(packed(SOUND, text.number, samples.tobytes()))
        heapq.heappush(self._waiting, text)


def confine(memory_bytes: int) -> list[str]:
    """Limit the memory of this process, and let it write no file. Returns what is in effect."""
    # When memory runs out, answers as text matter more.
    held = ["first to go"] if processes.be_first_to_go() else []
    held += processes.give_up_rights()
    no_files = {resource.RLIMIT_FSIZE: (0, 0), resource.RLIMIT_CORE: (0, 0)}
    if processes.limit(memory_bytes, no_files):
        held.append("limited memory")
    return held
