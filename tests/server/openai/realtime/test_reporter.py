"""Every event of a session has its words in OpenAI's dialect, or is known to have none."""

import json
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from tests.server.native.test_messages import WRITTEN
from voxtral_worker.errors import EngineFailure, WorkerError
from voxtral_worker.server.channels import AUDIO, Channels
from voxtral_worker.server.openai.realtime.reporter import Reporter
from voxtral_worker.server.openai.realtime.session_options import SessionOptions
from voxtral_worker.sessions import events
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.session import Session

BEGUN = "response.created"
# The last event that each one leads to, after a turn has begun to be spoken and answered.
LAST: dict[type, str | None] = {
    events.SpeechStarted: "input_audio_buffer.speech_started",
    events.SpeechEnded: "conversation.item.done",
    events.TurnReopened: "input_audio_buffer.speech_started",
    events.NoSpeech: "error",
    events.Partial: None,
    events.Transcript: None,
    events.Accepted: BEGUN,
    events.Delta: "response.output_text.delta",
    events.CallBegun: "conversation.item.added",
    events.CallDelta: "response.function_call_arguments.delta",
    events.CallMade: "conversation.item.done",
    events.HistoryTrimmed: None,
    events.Stopped: None,
    events.Answered: "response.done",
    events.Spoken: "response.output_audio.delta",
    events.Failed: "response.done",
    events.HistoryCleared: None,
    events.ConfigChanged: None,
    events.Refused: "error",
    events.Draining: "error",
    events.Expired: "error",
}


class Heard:
    """A reporter, and what it sends."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        channels = Channels()
        channels.attach(AUDIO, SimpleNamespace(send=self.send))  # type: ignore[arg-type]
        driver = SimpleNamespace(
            session=Session("s", SessionConfig(), 0.0),
            engine=None,
            context=None,
            channels=channels,
            refuse=self.refuse,
        )
        self.reporter = Reporter(driver, SessionOptions)  # type: ignore[arg-type]

    def send(self, text: str) -> None:
        self.kinds.append(json.loads(text)["type"])

    def refuse(self, _: str, error: WorkerError) -> None:
        self.reporter.report(events.Refused(error))

    def last(self, event: events.Event) -> str | None:
        """The last event that one leads to."""
        self.kinds.clear()
        self.reporter.report(event)
        return self.kinds[-1] if self.kinds else None


def test_no_event_is_left_out() -> None:
    assert LAST.keys() == set(get_args(events.Event))


@pytest.mark.parametrize("event", [event for event, _ in WRITTEN])
def test_an_event_is_told_where_openai_has_one_for_it(event: Any) -> None:
    heard = Heard()
    heard.reporter.report(events.SpeechStarted("1", 0))
    if not isinstance(event, events.Accepted):
        turn_id = getattr(event, "turn_id", None) or "1"
        heard.reporter.report(events.Accepted(turn_id))
    if isinstance(event, events.CallMade):
        begun = events.CallBegun(turn_id, event.index, event.call.call_id, event.call.name)
        heard.reporter.report(begun)
    assert heard.last(event) == LAST[type(event)]


def test_a_response_that_was_not_accepted_is_not_told() -> None:
    heard = Heard()
    assert heard.last(events.Failed("9", EngineFailure("it broke"))) is None
