import numpy as np
import pytest

from voxtral_worker.engine.conversation import AssistantTurn, Audio, Exchange, UserTurn
from voxtral_worker.engine.request import (
    Delta,
    Failed,
    Finished,
    GenerationRequest,
    HistoryTrimmed,
    Sampling,
    Timings,
    Urgency,
    Usage,
)
from voxtral_worker.errors import BadInput, EngineFailure, RateLimited
from voxtral_worker.sessions.answering import MAX_WAITING
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Cancel, Effect, Generate, LineName, Send
from voxtral_worker.sessions.messages import (
    ErrorMessage,
    Status,
    TextDelta,
    TextInput,
    TextResponse,
    TranscriptPartial,
)
from voxtral_worker.sessions.session import Session

FRAME_S = 0.032
DONE = Finished("stop", Usage(10, 2, 4), Timings(0.0, 0.01, 0.02))


class Talk:
    """A session with a clock that only audio moves; every frame's samples are its number."""

    def __init__(self, **options: object) -> None:
        self.session = Session("s", SessionConfig().updated(options), 0.0)
        self.now_s = 0.0
        self.frames = 0

    def hear(self, *stretches: tuple[float, int]) -> list[Effect]:
        """Frames of a speech probability, one call a frame."""
        effects: list[Effect] = []
        for probability, frames in stretches:
            for _ in range(frames):
                self.now_s += FRAME_S
                frame = np.full((1, 512), self.frames, np.float32)
                self.frames += 1
                effects += self.session.hear(frame, [probability], self.now_s)
        return effects

    def spoken_turn(self) -> list[Effect]:
        return self.hear((0.9, 20), (0.0, 16))

    def text(self, text: str = "Hi", line: LineName = LineName.CONTROL) -> list[Effect]:
        return self.session.text(line, TextInput(text), self.now_s)

    def says(self, turn_id: str, text: str, *token_ids: int) -> list[Effect]:
        return self.session.on_event(turn_id, Delta(text, token_ids), self.now_s)

    def finishes(self, turn_id: str, event: Finished = DONE) -> list[Effect]:
        return self.session.on_event(turn_id, event, self.now_s)


def messages(effects: list[Effect]) -> list[object]:
    return [effect.message for effect in effects if isinstance(effect, Send)]


def requests(effects: list[Effect]) -> dict[str, GenerationRequest]:
    return {e.generation_id: e.request for e in effects if isinstance(e, Generate)}


def response(effects: list[Effect]) -> TextResponse:
    (found,) = [m for m in messages(effects) if isinstance(m, TextResponse)]
    return found


def test_a_spoken_turn_is_announced_ended_and_asked_of_the_engine() -> None:
    talk = Talk()
    effects = talk.spoken_turn()
    assert effects[:3] == [
        Send(LineName.AUDIO, Status("speech_started", "1")),
        Send(LineName.AUDIO, Status("speech_ended", "1")),
        Send(LineName.AUDIO, Status("processing", "1")),
    ]
    (request,) = requests(effects).values()
    assert request.owner == "s"
    assert request.urgency is Urgency.TURN
    assert request.sampling == Sampling(0.2, 0.95, 256)
    assert talk.session.queue_size == 1


def test_a_turns_audio_is_its_frames_with_the_pre_roll_and_the_tail() -> None:
    talk = Talk()
    effects = talk.hear((0.0, 100), (0.9, 20), (0.0, 16))
    (request,) = requests(effects).values()
    (audio,) = request.conversation.user.parts
    assert isinstance(audio, Audio)
    assert audio.samples.reshape(-1, 512)[:, 0].tolist() == list(range(90, 125))


def test_frames_of_one_call_and_of_many_calls_give_the_same_turns() -> None:
    probabilities = [0.0] * 30 + [0.9] * 20 + [0.0] * 40 + [0.9] * 10 + [0.0] * 20
    one, many = Talk(barge_in=False), Talk(barge_in=False)
    frames = np.repeat(np.arange(len(probabilities), dtype=np.float32)[:, None], 512, axis=1)
    whole = one.session.hear(frames, probabilities, 1.0)
    pieces = many.hear(*[(p, 1) for p in probabilities])
    assert messages(whole) == messages(pieces)
    assert len(requests(whole)) == 1
    for a, b in zip(requests(whole).values(), requests(pieces).values(), strict=True):
        heard = [r.conversation.user.parts[0] for r in (a, b)]
        assert all(isinstance(audio, Audio) for audio in heard)
        assert np.array_equal(heard[0].samples, heard[1].samples)  # type: ignore[union-attr]


def test_silence_holds_no_more_than_the_pre_roll_in_memory() -> None:
    talk = Talk()
    assert talk.hear((0.0, 5000)) == []
    assert len(talk.session._heard) == 10


def test_a_text_is_answered_on_the_line_it_came_by_with_its_request_id() -> None:
    talk = Talk()
    effects = talk.session.text(LineName.CONTROL, TextInput("Hi", "mine"), 0.0)
    processing = Status("processing", "1", {"request_id": "mine"})
    assert effects[0] == Send(LineName.CONTROL, processing)
    assert requests(effects)["1"].conversation.user == UserTurn(("Hi",))
    assert talk.says("1", "Hel", 1) == [Send(LineName.CONTROL, TextDelta("Hel", "1", "mine"))]
    ended = talk.finishes("1")
    assert [e.line for e in ended if isinstance(e, Send)] == [LineName.CONTROL]
    assert response(ended).request_id == "mine"
    assert response(ended).source == "text"


def test_deltas_joined_are_the_text_of_the_response() -> None:
    talk = Talk()
    talk.spoken_turn()
    sent = talk.says("1", "Good ", 1) + talk.says("1", "day", 2, 3)
    assert "".join(m.text for m in messages(sent) if isinstance(m, TextDelta)) == "Good day"
    ended = response(talk.finishes("1"))
    assert (ended.text, ended.finish_reason, ended.source) == ("Good day", "stop", "audio")
    assert ended.usage == {"prompt_tokens": 10, "completion_tokens": 2, "cached_tokens": 4}


def test_the_stages_of_a_turn_add_up() -> None:
    talk = Talk()
    talk.spoken_turn()
    talk.now_s += 0.1
    talk.says("1", "Good", 1)
    talk.now_s += 0.2
    metrics = response(talk.finishes("1")).metrics
    assert metrics == {
        "speech_ms": 640,
        "endpoint_ms": 512.0,
        "queue_ms": 70.0,
        "encode_ms": 10.0,
        "prefill_ms": 20.0,
        "first_token_ms": 100.0,
        "total_ms": 812.0,
        "tokens": 2,
        "cached_tokens": 4,
        "speculative": False,
    }


def test_the_audio_stages_of_a_text_are_zero_and_no_stage_is_below_it() -> None:
    talk = Talk()
    talk.text()
    metrics = response(talk.finishes("1")).metrics
    assert metrics["speech_ms"] == metrics["endpoint_ms"] == metrics["queue_ms"] == 0
    assert metrics["first_token_ms"] == metrics["total_ms"] == 0


def test_without_stream_only_the_whole_response_is_sent() -> None:
    talk = Talk(stream=False)
    talk.text()
    assert talk.says("1", "Hello", 1) == []
    assert response(talk.finishes("1")).text == "Hello"


def test_a_change_of_stream_holds_from_the_next_response_on() -> None:
    talk = Talk(stream=False)
    talk.text()
    talk.says("1", "Hel", 1)
    talk.session.update_config(LineName.AUDIO, {"stream": True})
    assert talk.says("1", "lo", 2) == []
    talk.finishes("1")
    talk.text()
    assert messages(talk.says("2", "Hello", 1)) == [TextDelta("Hello", "2")]


def test_turns_are_answered_in_the_order_in_which_they_ended() -> None:
    talk = Talk()
    assert list(requests(talk.text("one"))) == ["1"]
    assert requests(talk.text("two")) == {}
    assert requests(talk.text("three")) == {}
    assert talk.session.queue_size == 3
    assert list(requests(talk.finishes("1"))) == ["2"]
    assert list(requests(talk.finishes("2"))) == ["3"]
    assert requests(talk.finishes("3")) == {}
    assert talk.session.queue_size == 0


def test_a_text_that_finds_too_many_waiting_is_refused() -> None:
    talk = Talk()
    for _ in range(MAX_WAITING + 1):
        talk.text()
    with pytest.raises(RateLimited) as refused:
        talk.text()
    assert refused.value.retry_after_s is not None
    assert talk.session.queue_size == MAX_WAITING + 1


def test_a_spoken_turn_that_finds_too_many_waiting_is_told_so() -> None:
    talk = Talk(barge_in=False)
    for _ in range(MAX_WAITING + 1):
        talk.text()
    effects = talk.spoken_turn()
    last = messages(effects)[-1]
    assert isinstance(last, ErrorMessage)
    assert (last.error.code, last.turn_id) == ("RATE_LIMITED", str(MAX_WAITING + 2))
    assert requests(effects) == {}


def test_speaking_over_a_response_interrupts_it() -> None:
    talk = Talk()
    talk.text()
    talk.says("1", "The weather", 1, 2)
    effects = talk.hear((0.9, 10))
    assert effects[0] == Cancel("1")
    assert messages(effects)[0] == Status("interrupted", "1")
    said = response(effects)
    assert (said.turn_id, said.text, said.finish_reason) == ("1", "The weather", "interrupted")
    assert messages(effects)[-1] == Status("speech_started", "2")
    assert talk.session.history == (Exchange(UserTurn(("Hi",)), AssistantTurn((1, 2))),)


def test_without_barge_in_speech_leaves_the_response_alone() -> None:
    talk = Talk(barge_in=False)
    talk.text()
    assert talk.hear((0.9, 10)) == [Send(LineName.AUDIO, Status("speech_started", "2"))]
    assert messages(talk.says("1", "on", 1)) == [TextDelta("on", "1")]


def test_what_waits_is_answered_after_an_interrupted_response() -> None:
    talk = Talk()
    talk.text("one")
    talk.text("two")
    assert list(requests(talk.hear((0.9, 10)))) == ["2"]


def test_a_cancelled_response_ends_with_what_was_delivered_and_the_next_begins() -> None:
    talk = Talk()
    talk.text("one")
    talk.text("two")
    talk.says("1", "Well", 7)
    effects = talk.session.cancel(LineName.AUDIO, talk.now_s)
    assert effects[0] == Cancel("1")
    assert messages(effects)[0] == Status("cancelled", "1")
    assert response(effects).text == "Well"
    assert response(effects).usage["completion_tokens"] == 1
    assert list(requests(effects)) == ["2"]


def test_a_response_that_the_engine_interrupts_lets_the_next_begin() -> None:
    talk = Talk()
    talk.text("one")
    talk.text("two")
    effects = talk.finishes("1", Finished("interrupted", Usage(), Timings()))
    assert response(effects).finish_reason == "interrupted"
    assert list(requests(effects)) == ["2"]


def test_cancelling_nothing_is_answered_with_no_turn() -> None:
    effects = Talk().session.cancel(LineName.CONTROL, 0.0)
    assert effects == [Send(LineName.CONTROL, Status("cancelled", extra={"turn_id": None}))]


def test_a_cancelled_generation_says_nothing_afterwards() -> None:
    talk = Talk()
    talk.text()
    talk.session.cancel(LineName.CONTROL, 0.0)
    assert talk.says("1", "late", 1) == []
    assert talk.finishes("1") == []
    assert talk.session.on_event("1", Failed(EngineFailure("late")), 0.0) == []
    assert talk.session.on_event("1", HistoryTrimmed(1), 0.0) == []


def test_a_failed_response_is_an_error_of_its_turn_and_the_next_begins() -> None:
    talk = Talk()
    talk.text("one")
    talk.text("two")
    error = EngineFailure("it broke")
    effects = talk.session.on_event("1", Failed(error), 0.0)
    assert messages(effects) == [ErrorMessage(error, "1")]
    assert list(requests(effects)) == ["2"]
    assert talk.session.history == ()


def test_history_goes_into_the_next_prompt() -> None:
    talk = Talk(system_prompt="Be brief.", language="de")
    talk.text("one")
    talk.says("1", "a", 1)
    talk.finishes("1")
    conversation = requests(talk.text("two"))["2"].conversation
    assert conversation.history == (Exchange(UserTurn(("one",)), AssistantTurn((1,))),)
    assert conversation.system_prompt == "Be brief."
    assert conversation.language == "de"
    assert not conversation.transcribe


def test_exchanges_that_no_longer_fit_are_forgotten_and_the_client_is_told() -> None:
    talk = Talk()
    for turn_id in ("1", "2", "3"):
        talk.text(turn_id)
        talk.finishes(turn_id)
    talk.text("4")
    effects = talk.session.on_event("4", HistoryTrimmed(2), 0.0)
    assert messages(effects) == [Status("history_trimmed", "4", {"exchanges": 2})]
    assert [exchange.user.parts for exchange in talk.session.history] == [("3",)]


def test_a_cleared_history_forgets_the_response_being_made_too() -> None:
    talk = Talk()
    talk.text("one")
    talk.finishes("1")
    talk.text("two")
    cleared = talk.session.clear_history(LineName.CONTROL)
    assert cleared == [Send(LineName.CONTROL, Status("history_cleared"))]
    assert messages(talk.session.on_event("2", HistoryTrimmed(1), 0.0))
    assert response(talk.finishes("2")).turn_id == "2"
    assert talk.session.history == ()
    talk.text("three")
    talk.finishes("3")
    assert len(talk.session.history) == 1


def test_transcribing_is_greedy_and_has_no_history() -> None:
    talk = Talk(mode="transcribe", language="en")
    talk.text("typed")
    talk.finishes("1")
    effects = talk.spoken_turn()
    request = requests(effects)["2"]
    assert request.conversation.transcribe
    assert request.conversation.history == ()
    assert request.conversation.language == "en"
    assert request.sampling.temperature == 0.0
    talk.says("2", "words", 1)
    talk.finishes("2")
    assert len(talk.session.history) == 1


def test_a_temperature_that_was_asked_for_holds_for_transcribing_too() -> None:
    talk = Talk(mode="transcribe", temperature=0.5, top_p=0.5, max_length=7)
    assert requests(talk.spoken_turn())["1"].sampling == Sampling(0.5, 0.5, 7)


def test_a_text_is_answered_in_transcribe_mode_too() -> None:
    talk = Talk(mode="transcribe")
    request = requests(talk.text())["1"]
    assert not request.conversation.transcribe
    assert request.sampling.temperature == 0.2


def test_end_turn_ends_an_open_turn_at_once() -> None:
    talk = Talk()
    talk.hear((0.9, 10))
    effects = talk.session.end_turn(LineName.AUDIO, talk.now_s)
    assert messages(effects) == [Status("speech_ended", "1"), Status("processing", "1")]
    assert list(requests(effects)) == ["1"]
    assert not talk.session.has_open_turn


def test_end_turn_without_any_speech_is_answered_without_a_turn() -> None:
    talk = Talk()
    talk.hear((0.0, 10))
    effects = talk.session.end_turn(LineName.AUDIO, talk.now_s)
    assert effects == [Send(LineName.AUDIO, Status("no_speech"))]
    assert talk.session.queue_size == 0


def test_end_turn_with_too_little_speech_is_a_turn_without_a_response() -> None:
    talk = Talk()
    talk.hear((0.9, 2))
    effects = talk.session.end_turn(LineName.AUDIO, talk.now_s)
    assert effects == [Send(LineName.AUDIO, Status("no_speech", "1"))]
    assert talk.session.queue_size == 0


def test_a_stream_that_pauses_ends_the_open_turn_and_only_that() -> None:
    talk = Talk(silence_ms=700)
    assert talk.session.stall_s == pytest.approx(0.95)
    assert talk.session.stall(talk.now_s) == []
    talk.hear((0.9, 10))
    assert talk.session.has_open_turn
    assert messages(talk.session.stall(talk.now_s))[0] == Status("speech_ended", "1")
    assert talk.session.stall(talk.now_s) == []


def test_a_turn_that_is_too_long_says_why_it_ended() -> None:
    session = Session("s", SessionConfig(), 0.0, max_turn_s=1.6)
    effects = session.hear(np.zeros((60, 512), np.float32), [0.9] * 60, 1.0)
    assert Status("speech_ended", "1", {"reason": "too_long"}) in messages(effects)
    assert Status("speech_started", "2") in messages(effects)


def test_a_config_update_is_told_whole_and_a_bad_one_changes_nothing() -> None:
    talk = Talk()
    (sent,) = messages(talk.session.update_config(LineName.AUDIO, {"silence_ms": 100}))
    assert isinstance(sent, Status)
    assert sent.status == "config_updated"
    assert sent.extra["config"] == talk.session.config.as_dict()
    assert sent.extra["config"]["silence_ms"] == 100
    with pytest.raises(BadInput):
        talk.session.update_config(LineName.AUDIO, {"silence_ms": 200, "top_p": 2})
    assert talk.session.config.silence_ms == 100


def test_a_new_silence_holds_for_the_turn_that_is_open() -> None:
    talk = Talk()
    talk.hear((0.9, 10))
    talk.session.update_config(LineName.AUDIO, {"silence_ms": 100})
    assert Status("speech_ended", "1") in messages(talk.hear((0.0, 4)))


def test_a_refusal_is_an_error_without_a_turn() -> None:
    error = BadInput("no")
    assert Talk().session.refuse(LineName.AUDIO, error) == [
        Send(LineName.AUDIO, ErrorMessage(error))
    ]


def test_partial_transcripts_come_about_once_a_second_while_somebody_speaks() -> None:
    talk = Talk(interim=True)
    first = requests(talk.hear((0.9, 40)))
    (partial_id,) = first
    request = first[partial_id]
    assert request.urgency is Urgency.PARTIAL
    assert request.conversation.transcribe
    assert request.sampling.temperature == 0.0
    assert requests(talk.hear((0.9, 40))) == {}, "one at a time"
    assert talk.says(partial_id, "good ", 1) == []
    assert talk.session.on_event(partial_id, HistoryTrimmed(1), 0.0) == []
    assert talk.says(partial_id, "day", 2) == []
    (sent,) = messages(talk.finishes(partial_id))
    assert sent == TranscriptPartial("good day", 0, "1")
    (partial_id,) = requests(talk.hear((0.9, 1)))
    talk.says(partial_id, "good day all", 1)
    assert messages(talk.finishes(partial_id)) == [TranscriptPartial("good day all", 8, "1")]


def test_a_partial_that_fails_is_not_told_and_the_next_one_is_made() -> None:
    talk = Talk(interim=True)
    (partial_id,) = requests(talk.hear((0.9, 40)))
    assert talk.session.on_event(partial_id, Failed(EngineFailure("no")), 0.0) == []
    assert len(requests(talk.hear((0.9, 31)))) == 1


def test_the_end_of_a_turn_cancels_its_partial() -> None:
    talk = Talk(interim=True)
    (partial_id,) = requests(talk.hear((0.9, 40)))
    effects = talk.session.end_turn(LineName.AUDIO, talk.now_s)
    assert effects[0] == Cancel(partial_id)
    assert talk.says(partial_id, "late", 1) == []
    assert talk.finishes(partial_id) == []


def test_without_interim_no_partial_is_made() -> None:
    assert requests(Talk().hear((0.9, 100))) == {}


def test_giving_up_stops_all_work_and_wipes_the_memory() -> None:
    talk = Talk(interim=True, barge_in=False)
    talk.text("one")
    talk.finishes("1")
    talk.text("two")
    talk.text("three")
    (partial_id,) = requests(talk.hear((0.9, 40)))
    assert talk.session.give_up() == [Cancel(partial_id), Cancel("2")]
    assert talk.session.history == ()
    assert talk.session.queue_size == 0
    assert not talk.session._heard
    assert talk.finishes("2") == []
    assert not talk.session.has_open_turn
    assert talk.session.stall(talk.now_s) == []
    assert talk.session.give_up() == []


def test_stats_are_the_documented_counts() -> None:
    talk = Talk()
    talk.text()
    assert talk.session.stats() == {"message_count": 0, "error_count": 0, "queue_size": 1}
