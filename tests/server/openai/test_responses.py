"""Responses are sent one after the other, each with its beginning and its end."""

from typing import Any

from voxtral_worker.engine.request import Usage
from voxtral_worker.errors import RateLimited
from voxtral_worker.server.openai.realtime.items import ITEMS_KEPT, Item, Items
from voxtral_worker.server.openai.realtime.responses import Responses
from voxtral_worker.sessions.events import Answered

USAGE = Usage(10, 2, 4, 7)


class Told:
    """What was sent, with the turn each response answers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.items = Items()
        self.responses = Responses(self.emit, self.items)

    def emit(self, kind: str, **fields: Any) -> None:
        self.events.append((kind, fields))

    def begin(self, turn_id: str) -> None:
        self.responses.begin(turn_id, 100, {"turn": turn_id})

    def finish(self, turn_id: str, reason: str = "stop") -> None:
        self.responses.finish(Answered(turn_id, "Yes.", "text", reason, USAGE))

    def told(self, kind: str) -> list[tuple[str, str]]:
        """Turn and status of each response in events of a kind."""
        found = [fields["response"] for told, fields in self.events if told == kind]
        return [(response["metadata"]["turn"], response["status"]) for response in found]


def test_a_response_that_waits_begins_when_the_one_before_it_is_done() -> None:
    told = Told()
    told.begin("1")
    told.begin("2")
    assert told.told("response.created") == [("1", "in_progress")]
    told.responses.delta("2", "early")
    told.finish("1")
    assert told.told("response.created")[1:] == [("2", "in_progress")]
    told.finish("2", "length")
    assert told.told("response.done") == [("1", "completed"), ("2", "incomplete")]
    # Words that come early wait for the beginning of their response.
    kinds = [kind for kind, _ in told.events]
    early = next(at for at, (_, fields) in enumerate(told.events) if fields.get("delta") == "early")
    assert kinds[:early].count("response.created") == 2


def test_one_that_is_refused_before_its_time_has_a_beginning_and_an_end_too() -> None:
    told = Told()
    told.begin("1")
    told.begin("2")
    told.responses.fail("2", RateLimited("too many"))
    assert told.told("response.done") == [("2", "failed")]
    assert told.responses.current is not None
    assert told.responses.current.turn_id == "1"
    told.finish("1")
    assert told.told("response.done")[1:] == [("1", "completed")]
    assert told.responses.current is None


def test_a_response_nobody_knows_is_not_told() -> None:
    told = Told()
    told.finish("1")
    told.responses.fail("1", RateLimited("too many"))
    told.responses.stopped("1", "client_cancelled")
    assert told.events == []


def test_the_audio_of_a_prompt_is_told_as_the_engine_counts_it() -> None:
    told = Told()
    told.begin("1")
    told.finish("1")
    usage = told.events[-1][1]["response"]["usage"]
    assert usage["input_token_details"] == {
        "text_tokens": 3,
        "audio_tokens": 7,
        "cached_tokens": 4,
    }
    assert usage["total_tokens"] == 12


def test_only_the_newest_items_are_kept() -> None:
    items = Items()
    before = [items.add(Item(str(number), "user")) for number in range(ITEMS_KEPT + 1)]
    assert before[:2] == [None, "0"]
    assert items.find("0") is None
    assert items.last_id == str(ITEMS_KEPT)
