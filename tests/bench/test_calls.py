"""The embedded model calls tools through the whole server; `make bench` asks more of it."""

import json
import random
from collections.abc import Iterator

import pytest
import soundfile

from bench.calls import Case, ask, cases, offer
from builder.voxtral_tiny.tools import DONE, FAILED, expected_call
from builder.voxtral_tiny.vocabulary import expected_answer, text_answer
from tests.support.workers import running_worker
from voxtral_worker.settings import EMBEDDED_MODEL

CLIPS = EMBEDDED_MODEL / "clips"
SAID: dict[str, str] = json.loads((CLIPS / "index.json").read_text())
KNOWN = ["set_device", "set_timer", "dial"]


@pytest.fixture(scope="module")
def roomy() -> Iterator[str]:
    """The URL of a worker as one starts it; others in the tests have no room for offers."""
    with running_worker() as url:
        yield url


def case(words: str, known: list[str], result: str = "done", answer: str = DONE) -> Case:
    tools = offer(random.Random(words), known, 1)
    call = expected_call(words)
    fits = call is not None and call[0] in known
    return Case(words, True, tools, call if fits else None, result, answer)


@pytest.mark.parametrize("name", SAID)
async def test_a_spoken_command_is_called_and_nothing_else(roomy: str, name: str) -> None:
    samples, _ = soundfile.read(CLIPS / name, dtype="int16")
    asked = case(SAID[name], KNOWN)
    calls, said = await ask(roomy, asked, samples.tobytes())
    wanted = ([asked.call], DONE) if asked.call else ([], expected_answer(asked.words))
    assert (calls, said) == wanted


async def test_a_spoken_command_whose_tool_is_not_offered_is_answered(roomy: str) -> None:
    samples, _ = soundfile.read(CLIPS / "turn-on-the-kitchen-light.wav", dtype="int16")
    asked = case("turn on the kitchen light", ["set_timer", "dial"])
    calls, said = await ask(roomy, asked, samples.tobytes())
    assert (calls, said) == ([], expected_answer(asked.words))


@pytest.mark.parametrize(
    ("result", "answer"), [("done", DONE), ('{"error": "no answer from the tool"}', FAILED)]
)
async def test_a_typed_command_is_called_and_its_result_answered(
    roomy: str, result: str, answer: str
) -> None:
    for words in ("set a timer for five minutes", "turn off the garage fan"):
        spoken = case(words, KNOWN, result, answer)
        asked = Case(words, False, spoken.tools, spoken.call, result, answer)
        assert await ask(roomy, asked) == ([asked.call], answer)
    asked = Case("what time is it", False, asked.tools, None, result, answer)
    assert await ask(roomy, asked) == ([], text_answer(asked.words))


def test_the_benchmark_asks_as_often_for_a_call_as_for_none() -> None:
    asked = cases()
    assert sum(each.call is None for each in asked) == len(asked) / 2
    for each in asked:
        names = [tool["function"]["name"] for tool in each.tools]
        fitting = expected_call(each.words)
        assert (each.call is not None) == (fitting is not None and fitting[0] in names)
