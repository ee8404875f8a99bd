"""Gives the process to RunPod's SDK: its job loop, or its local job API.

The SDK is imported where it is needed, because that takes 1.4 s which a Pod, a test job
and its own heartbeat process need not wait for.
"""

import asyncio
import logging
import multiprocessing
import signal
import sys
from collections.abc import Callable, Sequence

from voxtral_worker.jobs.handler import JobHandler
from voxtral_worker.jobs.local import run_local
from voxtral_worker.jobs.mode import Mode, read_flags, which_mode
from voxtral_worker.jobs.shutdown import Shutdown
from voxtral_worker.jobs.stops import Stops
from voxtral_worker.settings import Settings

__all__ = ["Mode", "run_local", "run_queue", "run_serve_api", "which_mode"]

log = logging.getLogger(__name__)


def run_queue(
    handler: JobHandler,
    on_terminate: Callable[[float], None],
    max_concurrency: int,
    *,
    fitness_check: Callable[[], object],
    settings: Settings,
    is_healthy: Callable[[], bool] = lambda: True,
    argv: Sequence[str] = (),
) -> int:
    """Take jobs until SIGTERM or SIGINT; blocks, and wants the main thread.

    `fitness_check` runs before the first job is taken; when it raises, the SDK reports the
    worker unhealthy and ends the process with code 1. `on_terminate` is called on the
    loop that runs the jobs, as soon as the signal is there, with the seconds that a drain may
    take, and for a second signal again, with none. A worker that is no longer healthy leaves
    as if told to, rather than fail one job after the other. Returns the exit code: 1 in that
    case, 128 and its number after a second signal.
    """
    import runpod

    def engine_answers() -> None:
        fitness_check()

    shutdown = Shutdown(handler, on_terminate, settings.drain_timeout_seconds, is_healthy)
    stops = Stops(handler)

    def concurrency(_: int) -> int:
        shutdown.before_question()
        stops.follow(shutdown.scaler)
        return max_concurrency

    # A forked heartbeat would hold the listening socket and outlive a killed worker.
    multiprocessing.set_start_method("spawn", force=True)
    runpod.serverless.register_fitness_check(engine_answers)
    _set_arguments(argv, settings)
    try:
        runpod.serverless.start(
            {
                "handler": handler.handle,
                "return_aggregate_stream": True,
                "concurrency_modifier": concurrency,
            }
        )
    except asyncio.CancelledError:
        # How the shutdown leaves polls that nobody will answer.
        log.info("runpod: the job loop was left")
    return shutdown.exit_code


def run_serve_api(handler: JobHandler, argv: Sequence[str], settings: Settings) -> int:
    """Serve the SDK's local job API until SIGTERM or SIGINT. Returns the exit code."""
    import runpod

    taken = {settings.port, settings.port_health}
    free = next(port for port in range(settings.port + 1, settings.port + 3) if port not in taken)
    port = read_flags(argv).rp_api_port or free
    if port in taken:
        sys.stderr.write("--rp_api_port is taken by the streaming server; name another one\n")
        return 1
    multiprocessing.set_start_method("spawn", force=True)
    # The API's server raises the signal again when it has closed, which must not kill us.
    signal.signal(signal.SIGTERM, lambda *_: None)
    _set_arguments([*argv, "--rp_api_port", str(port)], settings)
    try:
        runpod.serverless.start({"handler": handler.handle, "return_aggregate_stream": True})
    except KeyboardInterrupt:
        log.info("runpod: interrupted")
    return 0


def _set_arguments(argv: Sequence[str], settings: Settings) -> None:
    """The SDK reads `sys.argv`; the log level is said for it if nobody did."""
    arguments = list(argv)
    if read_flags(argv).rp_log_level is None:
        # Its own default, DEBUG, writes what people say into the log.
        levels = {"DEBUG": "INFO", "WARNING": "WARN"}
        arguments += ["--rp_log_level", levels.get(settings.log_level, settings.log_level)]
    sys.argv = [sys.argv[0], *arguments]
