"""The short form of the recording of the console's conversation, with a worker of its own."""

import asyncio

import pytest

from bench.console_sound import answers, measure, record
from tests.support.chromium import browser_path
from tests.support.workers import running_worker

__all__ = ["browser_path"]


@pytest.mark.timeout(200)
@pytest.mark.usefixtures("browser_path")
def test_a_spoken_answer_is_played_as_it_was_sent() -> None:
    with running_worker(SPEECH="embedded") as url:
        sound = asyncio.run(record(url, ("turn on the kitchen light",)))
    assert answers(sound) == ["You said: Turn on the kitchen light."]
    measured = measure(sound)
    # The page's own speech did not interrupt it, as the microphone does not hear it.
    assert (measured.cuts, measured.clipped) == ([], 0)
    assert measured.speech_s > 1.0
    assert -30 < measured.rms_db < measured.peak_db < 0
    assert len(measured.gaps_ms) >= 3
    assert max(map(abs, measured.gaps_ms)) < 0.01
    assert max(measured.joint_jumps) < measured.inner_jump
    assert measured.wrong < 0.001
