"""When the client tries again."""

import itertools
from typing import NoReturn

import pytest

from voxtral_worker.client import Retry, VoxtralError
from voxtral_worker.client.rest import refusal

QUICK = Retry(most=3, first_ms=0.01)


def test_the_waits_are_those_of_the_document() -> None:
    assert [Retry().delay_s(attempt) for attempt in range(1, 7)] == [2, 4, 8, 16, 30, 30]
    assert Retry().most == 5


def test_a_worker_that_says_when_is_not_asked_before() -> None:
    assert Retry().delay_s(1, retry_after_s=12) == 12
    assert Retry().delay_s(3, retry_after_s=1) == 8


async def test_an_action_is_run_until_it_goes_well() -> None:
    attempts = itertools.count(1)

    async def third_time_lucky() -> int:
        if (attempt := next(attempts)) < 3:
            raise VoxtralError("not yet", may_pass=True)
        return attempt

    assert await QUICK.run(third_time_lucky) == 3


async def test_after_the_last_retry_the_reason_is_told() -> None:
    attempts = itertools.count(1)

    async def full() -> NoReturn:
        next(attempts)
        raise VoxtralError("all sessions are taken", code="AT_CAPACITY", may_pass=True)

    with pytest.raises(VoxtralError, match="gave up after 3 retries: all sessions") as told:
        await QUICK.run(full)
    assert told.value.code == "AT_CAPACITY"
    assert next(attempts) == 5


async def test_what_will_not_pass_is_not_tried_again() -> None:
    attempts = itertools.count(1)

    async def refused() -> NoReturn:
        next(attempts)
        raise VoxtralError("credentials are needed")

    with pytest.raises(VoxtralError, match="^credentials are needed$"):
        await QUICK.run(refused)
    assert next(attempts) == 2


@pytest.mark.parametrize(
    ("status", "may_pass"),
    [(400, False), (401, False), (404, False), (429, True), (500, False), (503, True)],
)
def test_only_limits_and_absence_may_pass(status: int, may_pass: bool) -> None:
    assert refusal(status, {}, b"").may_pass is may_pass


def test_a_refusal_is_told_in_the_workers_words() -> None:
    body = b'{"error": "over the limit", "code": "RATE_LIMITED"}'
    told = refusal(429, {"Retry-After": "12"}, body)
    assert (str(told), told.code, told.retry_after_s) == ("over the limit", "RATE_LIMITED", 12.0)
    assert "502" in str(refusal(502, {}, b"<html>"))
