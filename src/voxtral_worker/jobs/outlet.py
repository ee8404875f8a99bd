"""Pieces of a job's output on their way to the caller.

Every piece costs the SDK one awaited call, so the words of an answer are gathered: a delta
waits up to 100 ms for more of its kind, and for as long as the caller is busy.
"""

import asyncio
import contextlib
from collections import deque
from typing import Any, TypeAlias

from voxtral_worker.engine.answer import Answer
from voxtral_worker.engine.tools import calls_as_openai
from voxtral_worker.errors import WorkerError

Piece: TypeAlias = dict[str, Any]

GATHER_S = 0.1


def piece_of(index: int, answer: Answer) -> Piece:
    """A finished answer as the caller sees it, with its calls of tools in OpenAI's shape."""
    usage = {
        "prompt_tokens": answer.usage.prompt_tokens,
        "completion_tokens": answer.usage.completion_tokens,
        "cached_tokens": answer.usage.cached_tokens,
    }
    return {
        "index": index,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": usage,
        **({"tool_calls": calls_as_openai(answer.calls)} if answer.calls else {}),
    }


class Outlet:
    """Holds at most one open delta of each answer, so it is bounded by what is asked for.

    Owned by one event loop; one task adds, one generator takes.
    """

    def __init__(self, gather_s: float = GATHER_S) -> None:
        self._gather_s = gather_s
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[tuple[float, Piece]] = deque()
        self._open_deltas: dict[int, Piece] = {}
        self._has_ended = False
        self._error: WorkerError | None = None
        self._changed = asyncio.Event()

    def add_delta(self, index: int, text: str) -> None:
        """More words of the answer `index`."""
        open_delta = self._open_deltas.get(index)
        if open_delta is not None:
            open_delta["delta"] += text
            return
        self._open_deltas[index] = piece = {"index": index, "delta": text}
        self._pieces.append((self._loop.time() + self._gather_s, piece))
        self._changed.set()

    def add(self, piece: Piece) -> None:
        """A piece that is whole; nothing is gathered past it."""
        self._open_deltas.clear()
        self._pieces.append((0.0, piece))
        self._changed.set()

    def end(self, error: WorkerError | None = None) -> None:
        """Nothing follows; an error is told at once. Only the first end counts."""
        if self._has_ended:
            return
        self._has_ended = True
        self._error = error
        self._changed.set()

    async def take(self) -> Piece | None:
        """The next piece, or None after the last one. Raises the error the job ended with."""
        while True:
            if self._error is not None:
                raise self._error
            wait_s = self._wait_s()
            if wait_s is not None and wait_s <= 0:
                return self._pop()
            if self._has_ended:
                return None
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()

    def _wait_s(self) -> float | None:
        """Seconds until the head may go; None when there is none."""
        if not self._pieces:
            return None
        ready_s, head = self._pieces[0]
        is_open = any(piece is head for piece in self._open_deltas.values())
        return 0.0 if self._has_ended or not is_open else ready_s - self._loop.time()

    def _pop(self) -> Piece:
        _, piece = self._pieces.popleft()
        if self._open_deltas.get(piece.get("index", -1)) is piece:
            del self._open_deltas[piece["index"]]
        return piece
