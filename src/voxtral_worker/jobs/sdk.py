"""RunPod's SDK: its job loop, its local job API, and the only file that knows their insides.

The SDK is imported where it is needed, because that takes 1.4 s which a Pod, a test job
and its own heartbeat process need not wait for. What it offers no setting for is replaced on
its scaler, the object that asks for jobs and for stops: see `JobLoop`.
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
    """Stands between the SDK's job loop and the worker, on the loop that runs the jobs.

    It goes before the SDK's handlers of SIGTERM and SIGINT, so that the loop is left in the
    order that `Shutdown` says. `on_terminate` is told how many seconds the drain may take: none,
    when it is called for a second signal. `exit_code` is 1 once the engine was lost, and 128 and
    the signal's number after a second signal.

    It also reads the stops of jobs before the SDK does. The SDK forgets the stop of a job that
    is still on its way or in its queue: the job then runs to its end for nobody. And a task that
    it cancels before the task's first step never leaves the SDK's count of jobs: the worker takes
    one job fewer from then on. So the SDK hears only of stops of jobs that have begun; the handler
    keeps the others.
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
        # The SDK's own, once it has asked for a job: its signal handler is a method of it.
        self._scaler: Any = None
        self._sdk_handlers: dict[int, Any] = {}
        self._sdk_tasks: set[asyncio.Task[Any]] = set()
        self._ask_for_stops: Callable[[Any], Awaitable[list[str]]] | None = None
        self._leaving: asyncio.Task[None] | None = None

    def before_question(self) -> None:
        """Called before the SDK asks for jobs, which a worker that cannot do any must not."""
        if not self._sdk_tasks:
            self._attach()
        if self._shutdown.phase is Phase.RUNNING and not self._is_healthy():
            log.critical("runpod: the engine is lost, leaving so that another worker is started")
            self.exit_code = 1
            self._hear(signal.SIGTERM)

    def _attach(self) -> None:
        """Take the signals and the stops; the SDK's tasks are those that run now."""
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
            log.warning("runpod: this SDK has another way to stop jobs, early stops may be lost")

    async def _stops_of_begun(self, connection: Any) -> list[str]:
        assert self._ask_for_stops is not None
        return self._handler.stops_arrived(await self._ask_for_stops(connection))

    async def _ask_nobody(self, *_: object) -> None:
        """Takes the place of the SDK's question for jobs."""
        self._shutdown.question_is_over = True
        await asyncio.sleep(LOOK_S)

    def _hear(self, number: int) -> None:
        """A signal has come, or is due."""
        if self._shutdown.phase is Phase.RUNNING:
            self._begin(number)
        elif not self._shutdown.is_hurried:
            self._hurry(number)

    def _begin(self, number: int) -> None:
        name, open_jobs = signal.Signals(number).name, self._handler.open_jobs
        log.info("runpod: %s with %d jobs open", name, open_jobs)
        self._shutdown.begin(time.monotonic())
        self._handler.drain(self._drain_timeout_s)
        if hasattr(self._scaler, "jobs_fetcher"):
            self._scaler.jobs_fetcher = self._ask_nobody
        else:
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
                self._sdk_handlers[number](number, None)
                sdk_knows = True
            if phase is Phase.LEAVING:
                break
            await asyncio.sleep(LOOK_S)
        log.info("runpod: leaving with %d jobs open", self._handler.open_jobs)
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

    job_loop = JobLoop(handler, on_terminate, settings.drain_timeout_seconds, is_healthy)

    def concurrency(_: int) -> int:
        # The SDK asks how many jobs it may take each time before it asks for them.
        job_loop.before_question()
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
        # How a shutdown leaves questions that nobody will answer.
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
