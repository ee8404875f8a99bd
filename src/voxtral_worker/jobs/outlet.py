"""The pieces of a job's output on their way to the SDK.

Each piece costs the SDK one awaited call. So the deltas of an answer are gathered: one waits up to
100 ms for more text, and longer while the SDK is busy with the piece before it.
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
    """A finished answer as the caller gets it, with its tool calls in OpenAI's shape."""
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
    """Holds at most one open delta for each answer, so the job's input bounds its size.

    Owned by one event loop. One task adds pieces and one generator takes them.
    """

    def __init__(self, gather_s: float = GATHER_S) -> None:
        self._gather_s = gather_s
        self._loop = asyncio.get_running_loop()
        # Pieces in order, each with the time until which it waits for more text.
        self._pieces: deque[tuple[float, Piece]] = deque()
        # The delta of each answer to which more text can still be added.
        self._open_deltas: dict[int, Piece] = {}
        self._has_ended = False
        self._error: WorkerError | None = None
        self._changed = asyncio.Event()

    def add_delta(self, index: int, text: str) -> None:
        """Add text to the answer with this index."""
        open_delta = self._open_deltas.get(index)
        if open_delta is not None:
            open_delta["delta"] += text
            return
        self._open_deltas[index] = piece = {"index": index, "delta": text}
        self._pieces.append((self._loop.time() + self._gather_s, piece))
        self._changed.set()

    def add(self, piece: Piece) -> None:
        """Add a complete piece. Deltas before it are closed, so that pieces keep their order."""
        self._open_deltas.clear()
        self._pieces.append((0.0, piece))
        self._changed.set()

    def end(self, error: WorkerError | None = None) -> None:
        """End the output. An error is raised at once by `take`. Only the first end counts."""
        if self._has_ended:
            return
        self._has_ended = True
        self._error = error
        self._changed.set()

    async def take(self) -> Piece | None:
        """Wait for the next piece; None: there are no more. Raises the error of `end`."""
        while True:
            # Before the pieces that still wait: a job that has failed should end at once.
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
        """Seconds until the first piece is ready; None: there is no piece."""
        if not self._pieces:
            return None
        # A delta waits only while more text may be added to it, and not after the end.
        ready_s, head = self._pieces[0]
        is_open = any(piece is head for piece in self._open_deltas.values())
        return 0.0 if self._has_ended or not is_open else ready_s - self._loop.time()

    def _pop(self) -> Piece:
        _, piece = self._pieces.popleft()
        if self._open_deltas.get(piece.get("index", -1)) is piece:
            del self._open_deltas[piece["index"]]
        return piece
