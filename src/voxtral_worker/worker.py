"""Starts the worker in named steps, and stops it by undoing them in reverse.

server (/ping 204) → libraries → model → VAD → engine → warm-up → calibration (/ping 200)
→ RunPod's loop

Modules that import PyTorch and transformers are imported inside functions of this file: that takes
seconds, and the server must answer `/ping` before.
"""

import dataclasses
import errno
import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxtral_worker import metrics
from voxtral_worker.allocator import give_large_blocks_back
from voxtral_worker.audio.clips import DECODER
from voxtral_worker.checkpoint import is_local, problem_with
from voxtral_worker.errors import LoadFailure, WorkerError
from voxtral_worker.jobs.mode import Mode, which_mode
from voxtral_worker.logs import set_up_logging
from voxtral_worker.read_ahead import files_to_read, reading_ahead
from voxtral_worker.server.leases import SessionLeases
from voxtral_worker.server.lifecycle import Parts
from voxtral_worker.server.thread import ServerThread
from voxtral_worker.sessions.admission import Admission
from voxtral_worker.settings import (
    TURN_MODEL,
    Settings,
    SettingsError,
    near_misses,
    read_settings,
)
from voxtral_worker.speech.speech import open_speech
from voxtral_worker.tracing import open_tracing

if TYPE_CHECKING:
    from voxtral_worker.engine.engine import Engine
    from voxtral_worker.engine.model import LoadedModel

log = logging.getLogger(__name__)

# Goal from the end of a turn to its first delta on a GPU, unless LATENCY_GOAL_MS sets another one.
GPU_LATENCY_GOAL_MS = 250


class Worker:
    """All parts of a worker that is ready; it serves until `stop`."""

    def __init__(self, settings: Settings, server: ServerThread, parts: Parts) -> None:
        self.settings = settings
        # The thread of the network, with the sessions.
        self.server = server
        self.engine = parts.engine
        self.vad = parts.vad
        # Gives sessions to RunPod's jobs.
        self.leases = SessionLeases(server)
        # How long `stop` lets work in flight finish.
        self._drain_timeout_s = settings.drain_timeout_seconds
        # What speaks answers, scores pauses and sends traces; each may be None.
        self.speech = parts.speech
        self._completeness = parts.completeness
        self._tracing = parts.tracing

    def health(self) -> dict[str, Any]:
        """The answer of `GET /health`."""
        return self.server.health()

    @property
    def is_healthy(self) -> bool:
        """Whether the engine and the VAD still work."""
        return self.engine.is_healthy and self.vad.is_alive

    def check_fitness(self) -> None:
        """Raises EngineFailure if the model does not answer a tiny prompt within a minute."""
        self.engine.warm_up(60.0)

    def begin_drain(self, timeout_s: float) -> None:
        """Start to drain, or shorten a drain to `timeout_s`. Does not wait."""
        self._drain_timeout_s = timeout_s
        self.server.begin_drain(timeout_s)

    def stop(self) -> None:
        """Drain, then undo the cold start in reverse order."""
        # Sessions use the engine and the VAD until they are drained. The server answers `/ping`
        # (503) until both are stopped.
        self.server.drain(self._drain_timeout_s)
        self.engine.stop()
        self.vad.stop()
        if self._completeness is not None:
            self._completeness.stop()
        self.server.stop()
        if self.speech is not None:
            self.speech.stop()
        DECODER.stop()
        if self._tracing is not None:
            self._tracing.stop()
        log.info("worker: stopped")


def cold_start(settings: Settings, when_ready: Callable[[], None]) -> Worker:
    """Start the worker. Raises OSError if a port is taken, LoadFailure if a model cannot load.

    `when_ready` is called just before the first session may come.
    """
    started_s = time.monotonic()
    # Before the server: a bad setting should end the start without opening a port.
    require_usable_model(settings)
    speech = open_speech(settings)
    server = ServerThread(settings)
    started_server_s = time.monotonic()
    server.start()
    _log_step("server", started_server_s, server)
    try:
        # It starts in the background, and is ready before the model.
        DECODER.start()
        if speech is not None:
            speech.start()
        parts = dataclasses.replace(_load(settings, server), speech=speech)
    except WorkerError:
        server.fail()
        server.stop()
        if speech is not None:
            speech.stop()
        DECODER.stop()
        raise
    # All objects that exist now stay until the end. Freezing them keeps the garbage collector
    # from walking over a million objects of the libraries, which stops all work for 300 ms.
    gc.collect()
    gc.freeze()
    when_ready()
    server.become_ready(parts)
    log.info("worker: ready after %.1f s", time.monotonic() - started_s)
    for sentence in open_to(settings):
        log.warning("worker: %s: no API_KEYS, JWT_SECRET or JWT_PUBLIC_KEY is set", sentence)
    log.info("Console: %s", console_address(settings))
    return Worker(settings, server, parts)


def open_to(settings: Settings) -> list[str]:
    """One sentence for each way in which strangers can use a worker without credentials."""
    if settings.needs_credentials:
        return []
    sentences = []
    if settings.runs_on_runpod:
        sentences.append("ANYBODY who knows this pod's address can use it")
    if "*" in settings.allowed_origins:
        sentences.append(
            "any web page that is open in a browser from which this worker can be reached can "
            "use it (ALLOWED_ORIGINS is *)"
        )
    return sentences


def require_usable_model(settings: Settings) -> None:
    """Raises LoadFailure if MODEL_ID is a folder that cannot be served. Takes milliseconds."""
    model_id = settings.model_id
    if model_id is None or not is_local(model_id):
        return
    if problem := problem_with(Path(model_id)):
        raise LoadFailure(f"MODEL_ID is {model_id!r}, but {problem}")


def console_address(settings: Settings) -> str:
    """The address of the console for a browser on this machine."""
    scheme = "http" if settings.tls_cert_file is None else "https"
    is_everywhere = settings.host in ("0.0.0.0", "::", "")
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{'localhost' if is_everywhere else host}:{settings.port}"


def _load(settings: Settings, server: ServerThread) -> Parts:
    step = partial(_step, server)
    # The disk reads the weights while the processor imports libraries.
    with reading_ahead(files_to_read(settings)):
        with step("libraries"):
            from voxtral_worker.engine.core import EngineCore
            from voxtral_worker.engine.engine import Engine
            from voxtral_worker.engine.model import load_model
            from voxtral_worker.turns.completeness import Completeness, load_network
            from voxtral_worker.turns.vad import Vad
        with step("model"):
            loaded = load_model(settings, server.note_download)
    with step("vad"):
        vad = Vad()
        vad.start()
    completeness = None
    turn_model = settings.turn_model or TURN_MODEL
    if turn_model.is_file():
        with step("turn model"):
            completeness = Completeness(load_network(turn_model))
            completeness.start()
    with step("warm-up"):
        engine = Engine(EngineCore(loaded, settings))
        engine.start()
        engine.warm_up()
    _log_window_tail(engine, loaded)
    admission = _measure_capacity(engine, settings, loaded.device.type, step)
    tracing = open_tracing(settings.otel_exporter_otlp_endpoint, settings.otel_service_name)
    return Parts(engine, vad, loaded, tracing, admission, completeness)


def _log_window_tail(engine: "Engine", loaded: "LoadedModel") -> None:
    """Log whether answers may differ from those of whole windows, and whether that was checked."""
    # This reads the record from the disk, so that no call to `/health` has to.
    checked = loaded.tail_checked
    if engine.window_tail == "exact":
        return
    if checked is False:
        log.warning(
            "worker: WINDOW_TAIL is sampled, but no `voxtral tail-check` of these weights has "
            "passed on this machine: answers may differ from those of whole windows"
        )
    else:
        log.info("worker: the silence that fills a window is sampled")


def _measure_capacity(
    engine: "Engine",
    settings: Settings,
    device: str,
    step: Callable[[str], AbstractContextManager[None]],
) -> Admission | None:
    """Measure how many sessions fit the latency goal. None: no goal is set, so none is measured."""
    goal_ms = settings.latency_goal_ms
    if goal_ms is None:
        # No goal on a CPU: it is for trials, and would refuse most sessions.
        goal_ms = GPU_LATENCY_GOAL_MS if device == "cuda" else 0
    metrics.latency_goal.set(goal_ms / 1000)
    metrics.capacity_sessions.set(settings.max_sessions)
    if goal_ms == 0:
        return None
    with step("calibration"):
        from voxtral_worker.engine.calibration import calibrate

        measured = calibrate(engine, goal_ms / 1000)
    capacity = min(measured.sessions, settings.max_sessions)
    metrics.capacity_sessions.set(capacity)
    log.info(
        "worker: %d sessions may talk: first delta of a turn alone after %.0f ms, "
        "%.1f turns a second, KV cache of %d sessions",
        capacity,
        1000 * measured.first_delta_s,
        measured.turns_per_s,
        measured.sessions_in_memory,
    )
    if measured.first_delta_s * 1000 > goal_ms:
        log.warning("worker: even a single session misses the latency goal of %d ms", goal_ms)
    return Admission(capacity, goal_ms)


@contextmanager
def _step(server: ServerThread, name: str) -> Iterator[None]:
    """One step of the cold start, in the log and in `GET /health`."""
    started_s = time.monotonic()
    server.begin_step(name)
    yield
    _log_step(name, started_s, server)


def _log_step(name: str, started_s: float, server: ServerThread) -> None:
    took_s = time.monotonic() - started_s
    server.end_step(name, took_s)
    log.info("cold start: %s took %.2f s", name, took_s)


def serve(settings: Settings) -> int:
    """Run the streaming server alone, until SIGTERM or SIGINT. Returns the exit code.

    The code is 1 if the engine was lost: a Pod then starts the worker again.
    """
    worker, stopping = _start(settings, signal.SIGTERM, signal.SIGINT)
    while not stopping.wait(1.0) and worker.is_healthy:
        pass
    exit_code = 0
    if not stopping.is_set():
        log.critical(
            "worker: the engine or the VAD is lost: exiting, so that the worker is started again"
        )
        exit_code = 1
    worker.stop()
    return exit_code


def _start(settings: Settings, *signals: signal.Signals) -> tuple[Worker, threading.Event]:
    """Start the worker. Returns it, and an event that a signal sets from then on.

    During the start, a signal ends the process at once: no one is served yet, and a model may
    take a minute to load. A second signal ends it at any time.
    """
    stopping, is_ready = threading.Event(), threading.Event()

    def on_signal(number: int, _: object) -> None:
        if stopping.is_set():
            sys.exit(128 + number)
        stopping.set()
        if not is_ready.is_set():
            # Objects that are half made may fail as they are deleted: print no traceback of that.
            sys.unraisablehook = lambda _: None
            sys.exit(0)

    for number in signals:
        signal.signal(number, on_signal)
    return cold_start(settings, is_ready.set), stopping


def most_jobs(settings: Settings) -> int:
    """Jobs that are taken at once: one for each place in the engine, and one for each session.

    The number never changes. After a change the SDK takes no job before all open jobs are over,
    and a lease may be open for an hour.
    """
    return settings.max_batch_size + settings.max_sessions


def run_jobs(settings: Settings, mode: Mode, argv: Sequence[str]) -> int:
    """Run the server and RunPod's jobs, in one of the three modes with jobs."""
    worker, stopping = _start(settings, signal.SIGTERM)
    try:
        # A handler until the SDK sets its own: without one, Linux ignores SIGTERM for the first
        # process of a container.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        if stopping.is_set():
            return 0
        from voxtral_worker.jobs.handler import JobHandler
        from voxtral_worker.jobs.local import run_local
        from voxtral_worker.jobs.sdk import run_queue, run_serve_api
        from voxtral_worker.turns.recording import find_speech

        handler = JobHandler(
            worker.engine,
            worker.health,
            settings,
            worker.leases,
            find_speech=partial(find_speech, worker.vad.survey),
            speech=worker.speech,
        )
        match mode:
            case Mode.LOCAL_TEST:
                return run_local(handler, argv)
            case Mode.LOCAL_API:
                return run_serve_api(handler, argv, settings)
        return run_queue(
            handler,
            worker.begin_drain,
            most_jobs(settings),
            fitness_check=worker.check_fitness,
            is_healthy=lambda: worker.is_healthy,
            settings=settings,
            argv=argv,
        )
    finally:
        # All jobs are answered, but sessions may still be in a turn. A signal now ends the
        # process without waiting for them.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: sys.exit(128 + number))
        worker.stop()


def main(argv: Sequence[str] | None = None, options: Mapping[str, str] | None = None) -> int:
    """Run the worker. Returns the exit code.

    `argv`: the arguments of `handler.py`; None: run `python -m voxtral_worker`, the server alone.
    `options`: values by the names of environment variables; they override the environment.
    """
    try:
        settings = read_settings(options=options)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    # Before any large block is allocated.
    give_large_blocks_back()
    set_up_logging(settings.log_level, settings.log_format)
    for sentence in near_misses():
        log.warning("settings: %s", sentence)
    try:
        mode = Mode.SERVER_ONLY if argv is None else which_mode(settings, argv)
        if mode is Mode.SERVER_ONLY:
            return serve(settings)
        return run_jobs(settings, mode, argv or ())
    except WorkerError as error:
        log.error("cannot start: %s", error.message)
    except OSError as error:
        log.error("cannot start: %s", _why_not_listening(error, settings))
    return 1


def _why_not_listening(error: OSError, settings: Settings) -> str:
    # The error's text has the address. PORT is opened before PORT_HEALTH.
    name, port = "PORT", settings.port
    if settings.port_health is not None and f", {settings.port_health})" in str(error):
        name, port = "PORT_HEALTH", settings.port_health
    if error.errno == errno.EADDRINUSE:
        return f"{name} is {port}, but another program uses this port: set another one"
    if error.errno == errno.EACCES:
        return f"{name} is {port}, but this user may not listen on this port"
    return str(error)
