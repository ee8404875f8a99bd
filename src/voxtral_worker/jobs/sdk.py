"""Runs RunPod's SDK: its job loop and its local job API. Only this file knows its internals.

The SDK is imported inside functions, because the import takes 1.4 s, and a Pod, a test job and the
SDK's own heartbeat process do not need it. Some of its behaviour has no setting. `JobLoop` changes
it by replacing methods of the SDK's scaler, the object that asks for jobs and for stops.
"""

import asyncio
import logging
import multiprocessing
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from types import FrameType
from typing import Any

from voxtral_worker.jobs.handler import JobHandler
from voxtral_worker.jobs.mode import read_flags
from voxtral_worker.jobs.shutdown import LOOK_S, Phase, Shutdown
from voxtral_worker.settings import Settings

log = logging.getLogger(__name__)


class JobLoop:
    """Connects the SDK's job loop with the worker, on the loop that runs the jobs.

    **Signals.** It takes SIGTERM and SIGINT before the SDK's handlers do, so that the loop ends
    in the order of `Shutdown`. `on_terminate` gets the seconds that the drain may take; 0 for a
    second signal. `exit_code` is 1 if the engine was lost, and 128 plus the signal's number
    after a second signal.

    **Stops.** It reads the stops of jobs before the SDK does, and passes on only those of jobs
    that have begun; the handler keeps the others. The SDK has two faults here. It forgets the
    stop of a job that is still on its way or in its queue, and the job runs to its end for
    nothing. And if it cancels a task before the task's first step, that job is never taken off
    its count, so that the worker takes one job fewer from then on.
    """

    def __init__(
        self,
        handler: JobHandler,
        on_terminate: Callable[[float], None],
        drain_timeout_s: float,
        is_healthy: Callable[[], bool] = lambda: True,
    ) -> None:
        self.exit_code = 0
        self._handler = handler
        self._on_terminate = on_terminate
        self._drain_timeout_s = drain_timeout_s
        self._is_healthy = is_healthy
        self._shutdown = Shutdown(drain_timeout_s)
        # The SDK's scaler, found by its signal handler, which is one of its methods. None before
        # the SDK first asks for jobs.
        self._scaler: Any = None
        # The SDK's signal handlers by signal, which are called later.
        self._sdk_handlers: dict[int, Any] = {}
        # The tasks of the SDK itself, which are cancelled at the very end.
        self._sdk_tasks: set[asyncio.Task[Any]] = set()
        # The method of the scaler that `_stops_of_begun` replaces.
        self._ask_for_stops: Callable[[Any], Awaitable[list[str]]] | None = None
        # The task that runs the shutdown; held here, or it might be garbage-collected.
        self._leaving: asyncio.Task[None] | None = None

    def before_question(self) -> None:
        """Do what is due each time before the SDK asks for jobs.

        A worker whose engine is lost begins to shut down: it must not take jobs that it would
        fail.
        """
        if not self._sdk_tasks:
            self._attach()
        if self._shutdown.phase is Phase.RUNNING and not self._is_healthy():
            log.critical("runpod: the engine is lost: shutting down, so that RunPod replaces it")
            self.exit_code = 1
            self._hear(signal.SIGTERM)

    def _attach(self) -> None:
        """Replace the SDK's signal handlers and its method for stops.

        All tasks that run now are the SDK's: no job has been taken yet.
        """
        loop = asyncio.get_running_loop()
        self._sdk_tasks = asyncio.all_tasks(loop)

        def hear(number: int, _: FrameType | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._hear, number)

        for number in (signal.SIGTERM, signal.SIGINT):
            self._sdk_handlers[number] = signal.getsignal(number)
            signal.signal(number, hear)
        self._scaler = getattr(self._sdk_handlers[signal.SIGTERM], "__self__", None)
        if hasattr(self._scaler, "stop_signals_fetcher"):
            self._ask_for_stops = self._scaler.stop_signals_fetcher
            self._scaler.stop_signals_fetcher = self._stops_of_begun
        else:
            log.warning("runpod: this SDK stops jobs in another way, so early stops may be lost")

    async def _stops_of_begun(self, connection: Any) -> list[str]:
        assert self._ask_for_stops is not None
        return self._handler.stops_arrived(await self._ask_for_stops(connection))

    async def _ask_nobody(self, *_: object) -> None:
        """Replaces the SDK's request for jobs during a shutdown, and asks for none."""
        self._shutdown.question_is_over = True
        await asyncio.sleep(LOOK_S)

    def _hear(self, number: int) -> None:
        """Act on a signal, or as if one had come."""
        if self._shutdown.phase is Phase.RUNNING:
            self._begin(number)
        elif not self._shutdown.is_hurried:
            self._hurry(number)

    def _begin(self, number: int) -> None:
        name, open_jobs = signal.Signals(number).name, self._handler.open_jobs
        log.info("runpod: %s with %d jobs open", name, open_jobs)
        self._shutdown.begin(time.monotonic())
        self._handler.drain(self._drain_timeout_s)
        # The SDK calls `jobs_fetcher` for each request. A request that is already open is not
        # affected: its jobs are still taken.
        if hasattr(self._scaler, "jobs_fetcher"):
            self._scaler.jobs_fetcher = self._ask_nobody
        else:
            # Another SDK, whose requests cannot be stopped: do not wait for the open one.
            self._shutdown.question_is_over = True
        self._leaving = asyncio.create_task(self._leave(number), name="shutdown")
        self._on_terminate(self._drain_timeout_s)

    def _hurry(self, number: int) -> None:
        name, open_jobs = signal.Signals(number).name, self._handler.open_jobs
        log.warning("runpod: %s again: %d open jobs fail now", name, open_jobs)
        self._shutdown.hurry(time.monotonic())
        self.exit_code = self.exit_code or 128 + number
        self._handler.give_up()
        self._on_terminate(0.0)

    async def _leave(self, number: int) -> None:
        sdk_knows = False
        while True:
            phase = self._shutdown.look(time.monotonic(), self._handler.open_jobs)
            if phase is Phase.TELLING and not sdk_knows:
                # Pass the signal on to the SDK's own handler.
                self._sdk_handlers[number](number, None)
                sdk_knows = True
            if phase is Phase.LEAVING:
                break
            await asyncio.sleep(LOOK_S)
        log.info("runpod: leaving with %d jobs open", self._handler.open_jobs)
        # The SDK's loop may still wait for a request or a job: this makes `run_queue` return.
        for task in self._sdk_tasks:
            task.cancel()


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
    """Take jobs until SIGTERM or SIGINT. Blocks, and must run on the main thread.

    `fitness_check` runs before the first job is taken; if it raises, the SDK reports the worker
    as unhealthy and ends the process with code 1. `on_terminate` is called on the loop that runs
    the jobs as soon as a signal comes, with the seconds that a drain may take; for a second
    signal again, with 0. A worker that is no longer healthy shuts down by itself, because it
    would fail one job after the other. Returns the exit code: 1 in that case, 128 plus the
    signal's number after a second signal, else 0.
    """
    import runpod

    # The SDK shows the function's name if the check fails.
    def engine_answers() -> None:
        fitness_check()

    job_loop = JobLoop(handler, on_terminate, settings.drain_timeout_seconds, is_healthy)

    def concurrency(_: int) -> int:
        # The SDK calls this each time before it asks for jobs. It has no other such hook.
        job_loop.before_question()
        return max_concurrency

    # The SDK starts a process for its heartbeat. If it were forked, it would hold the listening
    # socket, and keep it after the worker was killed.
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
        # `_leave` cancelled the SDK's tasks, of which one may still wait for RunPod's answer.
        log.info("runpod: the job loop was left")
    return job_loop.exit_code


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
    # After its own shutdown, the API's server raises the signal again. That must not kill the
    # worker, which still has to stop.
    signal.signal(signal.SIGTERM, lambda *_: None)
    _set_arguments([*argv, "--rp_api_port", str(port)], settings)
    try:
        runpod.serverless.start({"handler": handler.handle, "return_aggregate_stream": True})
    except KeyboardInterrupt:
        log.info("runpod: interrupted")
    return 0


def _set_arguments(argv: Sequence[str], settings: Settings) -> None:
    """Set `sys.argv`, which the SDK reads, with a log level if none was given."""
    arguments = list(argv)
    if read_flags(argv).rp_log_level is None:
        # The SDK's default level, DEBUG, logs what people say.
        levels = {"DEBUG": "INFO", "WARNING": "WARN"}
        arguments += ["--rp_log_level", levels.get(settings.log_level, settings.log_level)]
    sys.argv = [sys.argv[0], *arguments]
