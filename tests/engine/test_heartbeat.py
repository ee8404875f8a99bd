"""An engine that hangs is not healthy, and one that is slow is."""

import queue
import threading
import time
from typing import Any

import pytest
import torch

from tests.engine.test_engine import Listener, ask, said
from tests.support.embedded_model import EMBEDDED
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.heartbeat import Heartbeat
from voxtral_worker.engine.inbox import Inbox
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.request import Finished
from voxtral_worker.engine.warm_up import end_of
from voxtral_worker.errors import EngineFailure, NotReady, WorkerError

WAIT_S = 60.0


class StepGate:
    """A step that waits at a gate before it computes."""

    def __init__(self, core: EngineCore) -> None:
        self._step = core.runner.step
        self.reached, self.opened = threading.Event(), threading.Event()
        core.runner.step = self.step  # type: ignore[method-assign]

    def step(self, chunks: Any) -> torch.Tensor:
        self.reached.set()
        assert self.opened.wait(WAIT_S)
        return self._step(chunks)


def wait_for(engine: Engine, *, healthy: bool) -> bool:
    until_s = time.monotonic() + WAIT_S
    while engine.is_healthy != healthy and time.monotonic() < until_s:
        time.sleep(0.01)
    return engine.is_healthy == healthy


def test_an_engine_whose_step_hangs_is_unhealthy_until_it_goes_on(loaded: LoadedModel) -> None:
    core = EngineCore(loaded, EMBEDDED)
    engine, gate = Engine(core, heartbeat=Heartbeat(0.2)), StepGate(core)
    engine.start()
    try:
        listener = ask(engine, said("hello"))
        assert gate.reached.wait(WAIT_S)
        assert wait_for(engine, healthy=False)
        with pytest.raises(NotReady):
            engine.submit(object(), Listener())  # type: ignore[arg-type]
        gate.opened.set()
        assert isinstance(listener.all()[-1], Finished)
        assert wait_for(engine, healthy=True)
    finally:
        gate.opened.set()
        engine.stop()


def test_an_engine_that_has_nothing_to_do_is_healthy() -> None:
    now_s = 0.0
    heartbeat = Heartbeat(60.0, lambda: now_s)
    heartbeat.begin()
    now_s = 60.0
    assert not heartbeat.is_late
    now_s = 61.0
    assert heartbeat.is_late
    heartbeat.beat()
    assert not heartbeat.is_late
    heartbeat.rest()
    now_s = 1000.0
    assert not heartbeat.is_late


def test_warm_up_waits_as_long_as_the_heart_beats() -> None:
    heartbeat = Heartbeat(60.0)
    done: queue.Queue[Any] = queue.Queue()
    ends = iter([*[queue.Empty()] * 5, None])

    class Answers:
        """Ends after five waits, in each of which something is done."""

        def get(self, timeout: float) -> None:
            end = next(ends)
            if end is not None:
                heartbeat.beat()
                raise end

    assert end_of(Answers(), heartbeat, 300.0) is None  # type: ignore[arg-type]
    # Nothing is done in this one.
    assert isinstance(end_of(done, heartbeat, 0.0), EngineFailure)


def test_warm_up_does_not_count_what_is_prepared_before(loaded: LoadedModel) -> None:
    core, inbox = EngineCore(loaded, EMBEDDED), Inbox()
    engine = Engine(core, inbox)
    opened, began = threading.Event(), threading.Event()

    def prepare() -> None:
        began.set()
        assert opened.wait(WAIT_S)

    core.encoder.prepare = prepare  # type: ignore[method-assign]
    engine.start()
    failures: list[BaseException] = []

    def warm_up() -> None:
        try:
            engine.warm_up(30.0)
        except EngineFailure as error:
            failures.append(error)

    try:
        assert began.wait(WAIT_S)
        warming = threading.Thread(target=warm_up)
        warming.start()
        warming.join(0.3)
        # Nothing is asked of the engine before it is prepared.
        assert inbox.waiting == 0
        opened.set()
        warming.join(WAIT_S)
        assert not warming.is_alive()
        assert not failures
    finally:
        opened.set()
        engine.stop()


def test_every_layer_of_a_step_is_a_beat_on_a_cpu(loaded: LoadedModel) -> None:
    """One step of a large model takes minutes there: a window of sound and a prompt."""
    core, heartbeat = EngineCore(loaded, EMBEDDED), Heartbeat(60.0)
    engine = Engine(core, heartbeat=heartbeat)
    beats: list[int] = []
    engine.start()
    try:
        engine.warm_up()
        step = core.runner.step

        def counted(chunks: Any) -> torch.Tensor:
            before = heartbeat.beats
            logits = step(chunks)
            beats.append(heartbeat.beats - before)
            return logits

        core.runner.step = counted  # type: ignore[method-assign]
        before = heartbeat.beats
        engine.warm_up()
        layers = loaded.model.config.text_config.num_hidden_layers
        assert beats
        assert set(beats) == {layers}
        encoder_layers = loaded.model.config.audio_config.num_hidden_layers
        # Those of the encoder, and one for each loop; the last may come after the answer.
        assert heartbeat.beats - before >= sum(beats) + encoder_layers + len(beats) - 1
    finally:
        engine.stop()
    stopped = heartbeat.beats
    mels = loaded.model.config.audio_config.num_mel_bins
    loaded.model.get_audio_features(torch.zeros(1, mels, 3000))
    assert heartbeat.beats == stopped


def test_a_step_that_is_late_at_warm_up_is_no_failure(loaded: LoadedModel) -> None:
    """A GPU's libraries are set up within the first one."""
    core = EngineCore(loaded, EMBEDDED)
    engine, gate = Engine(core, heartbeat=Heartbeat(0.05)), StepGate(core)
    engine.start()
    failures: list[BaseException] = []

    def warm_up() -> None:
        try:
            engine.warm_up()
        except WorkerError as error:
            failures.append(error)

    warming = threading.Thread(target=warm_up)
    warming.start()
    try:
        assert gate.reached.wait(WAIT_S)
        assert wait_for(engine, healthy=False)
        gate.opened.set()
        warming.join(WAIT_S)
        assert not warming.is_alive()
        assert not failures
    finally:
        gate.opened.set()
        engine.stop()
