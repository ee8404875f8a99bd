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
from voxtral_worker.sessions import events
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Cancel, Effect, Generate, Tell
from voxtral_worker.sessions.history import History
from voxtral_worker.sessions.request_builder import RequestBuilder
from voxtral_worker.sessions.session import Session
from voxtral_worker.sessions.turn_queue import MAX_WAITING

FRAME_S = 0.032
FRAME_MS = 32
CONTROL = "control"
ANY = Audio(np.zeros(0, np.float32))
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
                effects += self.session.listening.hear(frame, [probability], self.now_s)
        return effects

    def spoken_turn(self) -> list[Effect]:
        return self.hear((0.9, 20), (0.0, 16))

    def text(self, text: str = "Hi", to: str = CONTROL) -> list[Effect]:
        return self.session.inputs.text(text, self.now_s, to=to)

    def says(self, turn_id: str, text: str, *token_ids: int) -> list[Effect]:
        return self.session.on_event(turn_id, Delta(text, token_ids), self.now_s)

    def finishes(self, turn_id: str, event: Finished = DONE) -> list[Effect]:
        return self.session.on_event(turn_id, event, self.now_s)


def started(turn_id: str, frame: int) -> events.SpeechStarted:
    return events.SpeechStarted(turn_id, frame * FRAME_MS)


def ended(turn_id: str, first: int, end: int, reason: str = "silence") -> events.SpeechEnded:
    return events.SpeechEnded(turn_id, first * FRAME_MS, end * FRAME_MS, ANY, reason)


def told(effects: list[Effect]) -> list[events.Event]:
    return [effect.event for effect in effects if isinstance(effect, Tell)]


def requests(effects: list[Effect]) -> dict[str, GenerationRequest]:
    return {e.generation_id: e.request for e in effects if isinstance(e, Generate)}


def response(effects: list[Effect]) -> events.Answered:
    (found,) = [m for m in told(effects) if isinstance(m, events.Answered)]
    return found


def test_a_spoken_turn_is_announced_ended_and_asked_of_the_engine() -> None:
    talk = Talk()
    effects = talk.spoken_turn()
    assert effects[:3] == [
        Tell(started("1", 0)),
        Tell(ended("1", 0, 25)),
        Tell(events.Accepted("1")),
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
    one, many = Talk(barge_in=False, reopen_ms=0), Talk(barge_in=False, reopen_ms=0)
    frames = np.repeat(np.arange(len(probabilities), dtype=np.float32)[:, None], 512, axis=1)
    whole = one.session.listening.hear(frames, probabilities, 1.0)
    pieces = many.hear(*[(p, 1) for p in probabilities])
    assert told(whole) == told(pieces)
    assert len(requests(whole)) == 1
    for a, b in zip(requests(whole).values(), requests(pieces).values(), strict=True):
        heard = [r.conversation.user.parts[0] for r in (a, b)]
        assert all(isinstance(audio, Audio) for audio in heard)
        assert np.array_equal(heard[0].samples, heard[1].samples)  # type: ignore[union-attr]


def test_silence_holds_no_more_than_the_pre_roll_in_memory() -> None:
    talk = Talk()
    assert talk.hear((0.0, 5000)) == []
    assert len(talk.session.listening.heard) == 10


def test_a_text_is_answered_on_the_line_it_came_by_with_its_request_id() -> None:
    talk = Talk()
    effects = talk.session.inputs.text("Hi", 0.0, to=CONTROL, tag="mine")
    processing = events.Accepted("1", "mine")
    assert effects[0] == Tell(processing, CONTROL)
    assert requests(effects)["1"].conversation.user == UserTurn(("Hi",))
    assert talk.says("1", "Hel", 1) == [Tell(events.Delta("1", "Hel", "mine"), CONTROL)]
    done = talk.finishes("1")
    assert [e.to for e in done if isinstance(e, Tell)] == [CONTROL]
    assert response(done).tag == "mine"
    assert response(done).source == "text"


def test_deltas_joined_are_the_text_of_the_response() -> None:
    talk = Talk()
    talk.spoken_turn()
    sent = talk.says("1", "Good ", 1) + talk.says("1", "day", 2, 3)
    assert "".join(m.text for m in told(sent) if isinstance(m, events.Delta)) == "Good day"
    done = response(talk.finishes("1"))
    assert (done.text, done.finish_reason, done.source) == ("Good day", "stop", "audio")
    assert done.usage == Usage(10, 2, 4)


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
    talk.session.update_config({"stream": True})
    assert talk.says("1", "lo", 2) == []
    talk.finishes("1")
    talk.text()
    assert told(talk.says("2", "Hello", 1)) == [events.Delta("2", "Hello")]


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
    last = told(effects)[-1]
    assert isinstance(last, events.Failed)
    assert (last.error.code, last.turn_id) == ("RATE_LIMITED", str(MAX_WAITING + 2))
    assert requests(effects) == {}


def test_speaking_over_a_response_interrupts_it() -> None:
    talk = Talk()
    talk.text()
    talk.says("1", "The weather", 1, 2)
    effects = talk.hear((0.9, 10))
    assert effects[0] == Cancel("1")
    assert told(effects)[0] == events.Stopped("1", events.Why.SPOKEN_OVER)
    said = response(effects)
    assert (said.turn_id, said.text, said.finish_reason) == ("1", "The weather", "interrupted")
    assert told(effects)[-1] == started("2", 0)
    assert talk.session.history == (Exchange(UserTurn(("Hi",)), AssistantTurn((1, 2))),)


def test_without_barge_in_speech_leaves_the_response_alone() -> None:
    talk = Talk(barge_in=False)
    talk.text()
    assert talk.hear((0.9, 10)) == [Tell(started("2", 0))]
    assert told(talk.says("1", "on", 1)) == [events.Delta("1", "on")]


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
    effects = talk.session.cancel(talk.now_s)
    assert effects[0] == Cancel("1")
    assert told(effects)[0] == events.Stopped("1", events.Why.CANCELLED)
    assert response(effects).text == "Well"
    assert response(effects).usage.completion_tokens == 1
    assert list(requests(effects)) == ["2"]


def test_a_response_that_the_engine_interrupts_lets_the_next_begin() -> None:
    talk = Talk()
    talk.text("one")
    talk.text("two")
    effects = talk.finishes("1", Finished("interrupted", Usage(), Timings()))
    assert response(effects).finish_reason == "interrupted"
    assert list(requests(effects)) == ["2"]


def test_cancelling_nothing_is_answered_with_no_turn() -> None:
    effects = Talk().session.cancel(0.0, CONTROL)
    assert effects == [Tell(events.Stopped(None, events.Why.CANCELLED), CONTROL)]


def test_a_cancelled_generation_says_nothing_afterwards() -> None:
    talk = Talk()
    talk.text()
    talk.session.cancel(0.0, CONTROL)
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
    assert told(effects) == [events.Failed("1", error)]
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
    assert told(effects) == [events.HistoryTrimmed("4", 2)]
    assert [exchange.user.parts for exchange in talk.session.history] == [("3",)]


def test_a_cleared_history_forgets_the_response_being_made_too() -> None:
    talk = Talk()
    talk.text("one")
    talk.finishes("1")
    talk.text("two")
    cleared = talk.session.clear_history(CONTROL)
    assert cleared == [Tell(events.HistoryCleared(), CONTROL)]
    assert told(talk.session.on_event("2", HistoryTrimmed(1), 0.0))
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
    effects = talk.session.listening.end_turn(talk.now_s)
    assert told(effects) == [ended("1", 0, 10, "end_turn"), events.Accepted("1")]
    assert list(requests(effects)) == ["1"]
    assert not talk.session.listening.has_open_turn


def test_end_turn_without_any_speech_is_answered_without_a_turn() -> None:
    talk = Talk()
    talk.hear((0.0, 10))
    effects = talk.session.listening.end_turn(talk.now_s)
    assert effects == [Tell(events.NoSpeech())]
    assert talk.session.queue_size == 0


def test_end_turn_with_too_little_speech_is_a_turn_without_a_response() -> None:
    talk = Talk()
    talk.hear((0.9, 2))
    effects = talk.session.listening.end_turn(talk.now_s)
    assert effects == [Tell(events.NoSpeech("1"))]
    assert talk.session.queue_size == 0


def test_a_stream_that_pauses_ends_the_open_turn_and_only_that() -> None:
    talk = Talk(silence_ms=700)
    assert talk.session.listening.stall_s == pytest.approx(0.95)
    assert talk.session.listening.stall(talk.now_s) == []
    talk.hear((0.9, 10))
    assert talk.session.listening.has_open_turn
    stalled = ended("1", 0, 10, "stalled")
    assert told(talk.session.listening.stall(talk.now_s))[0] == stalled
    assert talk.session.listening.stall(talk.now_s) == []


def test_a_turn_that_is_too_long_says_why_it_ended() -> None:
    session = Session("s", SessionConfig(), 0.0, max_turn_s=1.6)
    effects = session.listening.hear(np.zeros((60, 512), np.float32), [0.9] * 60, 1.0)
    assert ended("1", 0, 48, "too_long") in told(effects)
    assert started("2", 48) in told(effects)


def test_a_config_update_is_told_whole_and_a_bad_one_changes_nothing() -> None:
    talk = Talk()
    (sent,) = told(talk.session.update_config({"silence_ms": 100}))
    assert sent == events.ConfigChanged(talk.session.config)
    assert talk.session.config.silence_ms == 100
    with pytest.raises(BadInput):
        talk.session.update_config({"silence_ms": 200, "top_p": 2})
    assert talk.session.config.silence_ms == 100


def test_a_new_silence_holds_for_the_turn_that_is_open() -> None:
    talk = Talk()
    talk.hear((0.9, 10))
    talk.session.update_config({"silence_ms": 100})
    assert ended("1", 0, 14) in told(talk.hear((0.0, 4)))


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
    (sent,) = told(talk.finishes(partial_id))
    assert sent == events.Partial("1", "good day", 0)
    (partial_id,) = requests(talk.hear((0.9, 1)))
    talk.says(partial_id, "good day all", 1)
    assert told(talk.finishes(partial_id)) == [events.Partial("1", "good day all", 8)]


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({}, 1024),
        ({"max_length": 20}, 1024),
        ({"mode": "transcribe"}, 1024),
        ({"mode": "transcribe", "max_length": 20}, 20),
    ],
)
def test_a_partial_may_be_as_long_as_its_audio_needs(
    options: dict[str, object], tokens: int
) -> None:
    talk = Talk(interim=True, **options)
    asked = requests(talk.hear((0.9, 970)))
    while asked:
        (partial_id,) = asked
        request = asked[partial_id]
        talk.finishes(partial_id)
        asked = requests(talk.hear((0.9, 1)))
    (audio,) = request.conversation.user.parts
    assert isinstance(audio, Audio)
    assert audio.windows == 2
    assert request.sampling.max_tokens == tokens


def test_a_partial_that_fails_is_not_told_and_the_next_one_is_made() -> None:
    talk = Talk(interim=True)
    (partial_id,) = requests(talk.hear((0.9, 40)))
    assert talk.session.on_event(partial_id, Failed(EngineFailure("no")), 0.0) == []
    assert len(requests(talk.hear((0.9, 31)))) == 1


def test_the_end_of_a_turn_cancels_its_partial() -> None:
    talk = Talk(interim=True)
    (partial_id,) = requests(talk.hear((0.9, 40)))
    effects = talk.session.listening.end_turn(talk.now_s)
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
    assert not talk.session.listening.heard
    assert talk.finishes("2") == []
    assert not talk.session.listening.has_open_turn
    assert talk.session.listening.stall(talk.now_s) == []
    assert talk.session.give_up() == []


def test_stats_are_the_documented_counts() -> None:
    talk = Talk()
    talk.text()
    assert talk.session.stats() == {"message_count": 0, "error_count": 0, "queue_size": 1}


def test_speech_never_interrupts_a_transcript() -> None:
    talk = Talk(mode="transcribe")
    first = talk.spoken_turn()
    assert isinstance(first[-1], Generate)
    second = talk.hear((0.9, 20))
    assert [effect for effect in second if isinstance(effect, Cancel)] == []
    waiting = talk.hear((0.0, 16))
    # It is written down when the one before it is.
    assert [effect for effect in waiting if isinstance(effect, Generate)] == []
    talk.says("1", "One.", 5)
    ended = talk.session.on_event("1", DONE, talk.now_s)
    (generate,) = [effect for effect in ended if isinstance(effect, Generate)]
    assert generate.generation_id == "2"


def test_speech_that_goes_on_over_a_forced_end_interrupts_nothing() -> None:
    talk = Talk()
    talk.session = Session("s", SessionConfig(), 0.0, max_turn_s=2.0)
    effects = talk.hear((0.9, 200))
    begun = [event for event in told(effects) if isinstance(event, events.SpeechStarted)]
    assert len(begun) > 2
    assert [effect for effect in effects if isinstance(effect, Cancel)] == []


def test_a_turn_that_is_too_long_loses_nothing_and_hears_nothing_twice() -> None:
    talk = Talk(mode="transcribe")
    talk.session = Session("s", SessionConfig(mode="transcribe"), 0.0, max_turn_s=2.0)
    effects = talk.hear((0.0, 20), (0.9, 300), (0.0, 20))
    asked = list(requests(effects).values())
    while asked_now := requests(talk.finishes(str(len(asked)))):
        asked += asked_now.values()
    heard = [frames_of(request) for request in asked]
    assert max(len(frames) for frames in heard) <= 62
    assert len(heard) > 4
    # One behind the other, from the pre-roll to the tail.
    assert [frame for frames in heard for frame in frames] == list(range(10, 325))


def test_audio_behind_a_cut_is_not_yet_settled() -> None:
    talk = Talk(mode="transcribe")
    talk.session = Session("s", SessionConfig(mode="transcribe"), 0.0, max_turn_s=2.0)
    frames = np.full((70, 512), 0.5, np.float32)
    frames[50:54] = 0.1
    # Two chunks of 1,000 bytes a frame, the first heard in two calls.
    talk.session.listening.audio_bytes_received += 40_000
    talk.session.listening.hear(frames[:30], [0.9] * 30, 1.0, more_frames=10)
    talk.session.listening.hear(frames[30:40], [0.9] * 10, 1.0)
    talk.session.listening.audio_bytes_received += 30_000
    effects = talk.session.listening.hear(frames[40:], [0.9] * 30, 2.0)
    (request,) = requests(effects).values()
    assert len(frames_of(request)) == 52
    talk.finishes("1")
    assert talk.session.record().audio_bytes == 52_000
    moved = Session("s", SessionConfig(), 0.0)
    moved.go_on_from(talk.session.record())
    assert moved.listening.audio_bytes_received == 52_000


def test_a_partial_of_the_rest_of_a_turn_begins_at_the_cut() -> None:
    talk = Talk()
    talk.session = Session("s", SessionConfig(interim=True), 0.0, max_turn_s=2.0)
    effects = talk.hear((0.9, 110))
    second = next(g for g in requests(effects) if g.startswith("partial-2-"))
    # Samples are numbers that rise, so the quietest place is the earliest looked at.
    assert frames_of(requests(effects)["1"])[-1] == 32
    assert frames_of(requests(effects)[second])[0] == 33


def test_a_gap_in_the_stream_behind_a_cut_is_a_pause() -> None:
    talk = Talk()
    talk.session = Session("s", SessionConfig(), 0.0, max_turn_s=2.0)
    frames = np.zeros((62, 512), np.float32)
    talk.session.listening.hear(frames, [0.9] * 55 + [0.0] * 7, 1.0)
    assert not talk.session.listening.has_open_turn
    assert talk.session.listening.may_stall
    assert talk.session.listening.stall(talk.now_s) == []
    assert not talk.session.listening.may_stall
    # Speech behind it is no longer the same speech.
    assert Cancel("1") in talk.hear((0.9, 20))


def frames_of(request: GenerationRequest) -> list[float]:
    (audio,) = request.conversation.user.parts
    assert isinstance(audio, Audio)
    numbers: list[float] = audio.samples.reshape(-1, 512)[:, 0].tolist()
    return numbers


def test_speech_after_a_pause_behind_a_forced_end_interrupts() -> None:
    talk = Talk()
    talk.session = Session("s", SessionConfig(), 0.0, max_turn_s=2.0)
    talk.hear((0.9, 62), (0.0, 40))
    effects = talk.hear((0.9, 20))
    assert [effect for effect in effects if isinstance(effect, Cancel)] == [Cancel("1")]


@pytest.mark.parametrize(("seconds", "tokens"), [(3, 512), (31, 1024), (300, 5120)])
def test_a_transcript_may_be_as_long_as_its_audio_needs(seconds: int, tokens: int) -> None:
    user = UserTurn((Audio(np.zeros(seconds * 16_000, np.float32)),))
    asked = RequestBuilder("s", SessionConfig(mode="transcribe"), History()).request(
        user, Urgency.TURN, is_audio=True
    )
    assert asked.sampling.max_tokens == tokens
    told = SessionConfig().updated({"mode": "transcribe", "max_length": 20})
    asked = RequestBuilder("s", told, History()).request(user, Urgency.TURN, is_audio=True)
    assert asked.sampling.max_tokens == 20
    chat = RequestBuilder("s", SessionConfig(), History()).request(
        user, Urgency.TURN, is_audio=True
    )
    assert chat.sampling.max_tokens == 256
