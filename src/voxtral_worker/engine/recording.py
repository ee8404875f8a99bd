"""Records work of a fixed shape once and replays it: a CUDA graph launches all of it at once.

Launching hundreds of small kernels one by one takes a GPU longer than the kernels themselves.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from voxtral_worker import metrics

log = logging.getLogger(__name__)

# A first run compiles kernels and sets libraries up, which must not be recorded.
RUNS_BEFORE_RECORDING = 2


@dataclass
class Recording:
    """Recorded work: `replay` runs it, and its result is in `output` until the next replay."""

    replay: Callable[[], None]
    output: torch.Tensor


class Recorder(Protocol):
    """Makes recordings."""

    def record(self, work: Callable[[], torch.Tensor]) -> Recording:
        """Run the work a few times, then record it; it must always use the same tensors."""


class GraphRecorder:
    """All recordings of one recorder share a stream for their first runs, and a memory pool.

    With a stream for each, cuBLAS would keep a workspace (32 MiB) for each of them. In one
    pool a recording may overwrite the output of another: read it before the next replay.
    """

    def __init__(self) -> None:
        self._stream: Any = None
        self._pool: Any = None

    def record(self, work: Callable[[], torch.Tensor]) -> Recording:
        """See Recorder. Raises what the work or the recording raises."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(RUNS_BEFORE_RECORDING):
                work()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Thread-local, because other threads may use the device at the same time.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            output = work()
        self._pool = graph.pool()
        return Recording(graph.replay, output)


def tell_fallback(what: str, error: Exception) -> None:
    """Log and count that a slower way is taken from now on; `what` names the faster one.

    A worker that answers slowly is better than one that does not start.
    """
    metrics.fallbacks.labels(what).inc()
    log.warning("engine: %s failed, a slower way is taken from now on: %r", what, error)
