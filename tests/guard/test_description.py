"""Every REST call answers as its description says, whatever it is sent."""

import logging

import pytest

from tests.support.fuzz_rest import fuzz_rest
from tests.support.ports import free_port
from tests.support.running_server import RunningServer
from voxtral_worker.settings import Settings
from voxtral_worker.turns.vad import Vad


def test_every_answer_is_within_the_description(vad: Vad, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(
        host="127.0.0.1", port=free_port(), rate_limit_enabled=False, max_sessions=100_000
    )
    server = RunningServer(settings, vad)
    server.become_ready()
    try:
        tally = fuzz_rest(server.url, 5)
    finally:
        server.stop()
    assert tally.failures == []
    assert tally.calls > 200
    assert tally.statuses.keys() >= {200, 400, 404, 405}
    assert not [r for r in caplog.records if r.exc_info or r.levelno >= logging.ERROR]
