"""What is fast and fails is replaced by what is slow and right."""

import logging

import pytest
import torch

from tests.support.fake_recorder import FakeRecorder
from tests.support.metric_values import value_of
from voxtral_worker import metrics
from voxtral_worker.engine.attention import KernelRows, open_batch
from voxtral_worker.engine.decoding import DecodeSteps, Row

ROWS = [Row(7, 3, torch.tensor([2])), Row(8, 17, torch.tensor([0, 3]))]


class OutOfResources(Exception):
    """As Triton's: no RuntimeError."""


class FailingForwards:
    """A model whose kernel fails from the call `fails_at` on; the gathered path never fails."""

    def __init__(self, fails_at: int, error: Exception | None = None) -> None:
        self.calls = 0
        self.fails_at = fails_at
        self.error = error or OutOfResources("out of resource: shared memory")

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        if isinstance(open_batch().decodes, KernelRows):
            self.calls += 1
            if self.calls > self.fails_at:
                raise self.error
        return torch.stack([ids, positions], dim=1)


def make_steps(forward: FailingForwards, recorder: FakeRecorder) -> DecodeSteps:
    cache = [torch.zeros(5, 16, 2, 4)]
    return DecodeSteps(
        forward, cache, cache, most_rows=6, most_tokens=64, spare_block=4, recorder=recorder
    )


def fallbacks() -> float:
    return float(value_of(metrics.fallbacks.labels("decode step")))


def test_a_kernel_that_fails_at_warm_up_is_replaced_by_gathering(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = fallbacks()
    steps = make_steps(FailingForwards(0), FakeRecorder())
    before_it = steps.attention
    assert before_it == "paged"
    with caplog.at_level(logging.WARNING):
        steps.prepare()
        assert steps.run(ROWS).tolist() == [[7, 3], [8, 17]]
    assert steps.attention == "gathered"
    assert len(caplog.records) == 1
    assert fallbacks() == before + 1


def test_a_kernel_that_fails_later_answers_the_same_step_by_gathering() -> None:
    recorder = FakeRecorder()
    forward = FailingForwards(6)
    steps = make_steps(forward, recorder)
    steps.prepare()
    assert recorder.recorded == 4
    first = steps.run(ROWS).tolist()
    forward.fails_at = 0
    assert steps.run(ROWS).tolist() == first == [[7, 3], [8, 17]]
    assert steps.attention == "gathered"


def test_memory_that_is_short_is_no_reason_to_stay_slow() -> None:
    steps = make_steps(FailingForwards(0, torch.OutOfMemoryError()), FakeRecorder())
    with pytest.raises(torch.OutOfMemoryError):
        steps.prepare()
    assert steps.attention == "paged"


def test_a_failing_compilation_is_replaced_by_the_plain_model() -> None:
    def uncompilable(ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("Failed to find C compiler")

    cache = [torch.zeros(5, 16, 2, 4)]
    plain = FailingForwards(0)
    steps = DecodeSteps(
        uncompilable, cache, cache, most_rows=6, most_tokens=64, spare_block=4, plain=plain
    )
    assert steps.run(ROWS).tolist() == [[7, 3], [8, 17]]


def test_the_slow_way_has_no_other_behind_it() -> None:
    def broken(ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("the device is lost")

    cache = [torch.zeros(5, 16, 2, 4)]
    steps = DecodeSteps(broken, cache, cache, most_rows=6, most_tokens=64, spare_block=4)
    with pytest.raises(RuntimeError, match="the device is lost"):
        steps.run(ROWS)


def test_recordings_of_all_sizes_write_to_one_buffer() -> None:
    recorder = FakeRecorder()
    make_steps(FailingForwards(99), recorder).prepare()
    assert len(recorder.outputs) == 4
    assert len({output.untyped_storage().data_ptr() for output in recorder.outputs}) == 1
