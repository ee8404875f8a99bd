"""Turns that continue after they have ended, and speech that is too short to interrupt."""

import numpy as np
import pytest

from tests.sessions.test_session import (
    DONE,
    Talk,
    ended,
    requests,
    response,
    started,
    told,
)
from voxtral_worker.engine.conversation import Audio, Exchange, UserTurn
from voxtral_worker.engine.request import Failed, GenerationRequest, HistoryTrimmed, Urgency
from voxtral_worker.errors import EngineFailure
from voxtral_worker.sessions import events
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Cancel, Commit, Effect, Generate, Tell
from voxtral_worker.sessions.session import Session

SPEECH = (0.9, 20)
END = (0.0, 16)
# Later than this a turn is another one.
LATER = (0.0, 26)


def reopened(turn_id: str = "1", frame: int = 0) -> events.TurnReopened:
    return events.TurnReopened(turn_id, frame * 32)


def frames_of(request: GenerationRequest) -> list[int]:
    """The numbers of the frames that the last sound of a request is made of."""
    audio = request.conversation.user.parts[-1]
    assert isinstance(audio, Audio)
    return [int(number) for number in audio.samples.reshape(-1, 512)[:, 0]]


def asked(effects: list[Effect]) -> GenerationRequest:
    (request,) = requests(effects).values()
    return request


def history_of(talk: Talk) -> list[Exchange]:
    return list(talk.session.history)


def test_a_turn_that_goes_on_takes_its_answer_back_and_is_one_piece_of_sound() -> None:
    talk = Talk()
    talk.hear((0.0, 100), SPEECH, END)
    talk.says("1", "You ", 1)
    effects = talk.hear((0.0, 5), (0.9, 4))
    assert Cancel("1") in effects
    assert told(effects)[0] == events.Stopped("1", events.Why.SPOKEN_OVER)
    assert (response(effects).text, response(effects).finish_reason) == ("You ", "interrupted")
    assert told(effects)[-1] == reopened(frame=90)
    assert history_of(talk) == []
    effects = talk.hear((0.9, 6), END)
    assert told(effects) == [ended("1", 90, 156), events.Accepted("1")]
    assert requests(effects).keys() == {"1.1"}
    assert frames_of(asked(effects)) == list(range(90, 156))
    talk.says("1.1", "Both.", 2)
    assert response(talk.finishes("1.1")).turn_id == "1"
    (exchange,) = history_of(talk)
    assert exchange.assistant.token_ids == (2,)


def test_an_answer_that_was_whole_is_taken_out_of_the_history() -> None:
    talk = Talk()
    talk.text("Hi")
    talk.says("1", "Hello.", 1)
    talk.finishes("1")
    talk.spoken_turn()
    talk.says("2", "So.", 2)
    talk.finishes("2")
    assert len(history_of(talk)) == 2
    assert told(talk.hear((0.9, 4))) == [reopened("2")]
    (kept,) = history_of(talk)
    assert kept.user == UserTurn(("Hi",))
    assert talk.session.memory.bytes > 0
    effects = talk.hear(END)
    assert asked(effects).conversation.history == (kept,)


def test_a_turn_that_waits_is_taken_out_of_the_queue() -> None:
    talk = Talk(barge_in=False)
    talk.text("Hi")
    talk.spoken_turn()
    assert talk.session.queue_size == 2
    effects = talk.hear((0.9, 4))
    assert told(effects)[0] == events.Stopped("2", events.Why.SPOKEN_OVER)
    assert told(effects)[-1] == reopened("2")
    assert not any(isinstance(effect, Cancel) for effect in effects)
    assert talk.session.queue_size == 1
    talk.hear(END)
    assert requests(talk.finishes("1")).keys() == {"2.1"}


def test_speech_that_goes_on_stops_the_response_to_a_text_that_was_sent_meanwhile() -> None:
    talk = Talk()
    talk.hear(SPEECH)
    talk.text()
    talk.text()
    talk.hear(END)
    effects = talk.hear((0.9, 4))
    stopped = [e for e in told(effects) if not isinstance(e, events.Answered)]
    why = events.Why.SPOKEN_OVER
    assert stopped == [events.Stopped("1", why), reopened(), events.Stopped("2", why)]
    assert requests(effects).keys() == {"3"}


def test_a_turn_whose_answer_failed_is_answered_when_it_goes_on() -> None:
    talk = Talk()
    talk.spoken_turn()
    talk.session.on_event("1", Failed(EngineFailure("no")), talk.now_s)
    # What failed is not in the history, but its sound is there.
    assert told(talk.hear((0.9, 4))) == [reopened()]
    assert frames_of(asked(talk.hear(END))) == list(range(45))


def test_what_the_engine_still_says_of_an_answer_that_was_taken_back_is_not_told() -> None:
    talk = Talk()
    talk.spoken_turn()
    talk.hear((0.9, 4), END)
    assert talk.says("1", "late", 1) == []
    assert talk.finishes("1") == []
    assert told(talk.says("1.1", "new", 2)) == [events.Delta("1", "new")]


def test_a_turn_goes_on_as_often_as_its_speaker_does() -> None:
    talk = Talk()
    talk.spoken_turn()
    for times in range(1, 4):
        effects = talk.hear((0.9, 10), END)
        assert reopened() in told(effects)
        assert f"1.{times}" in requests(effects)
        # The last end comes with the tail of five frames.
        assert frames_of(requests(effects)[f"1.{times}"]) == list(range(25 + 26 * times))


@pytest.mark.parametrize(
    "what", ["text", "say", "respond", "remember", "cancel", "clear", "end_turn", "stall"]
)
def test_what_somebody_has_done_since_then_closes_a_turn(what: str) -> None:
    talk = Talk()
    session = talk.session
    talk.spoken_turn()
    talk.finishes("1")
    match what:
        case "text":
            talk.text()
        case "say":
            session.inputs.say("item", ("And?",))
        case "respond":
            session.inputs.respond(talk.now_s)
        case "remember":
            session.inputs.remember("Hello.")
        case "cancel":
            session.cancel(talk.now_s)
        case "clear":
            session.clear_history()
        case "end_turn":
            session.listening.end_turn(talk.now_s)
        case "stall":
            assert session.listening.may_stall
            assert session.listening.stall(talk.now_s) == []
            assert not session.listening.may_stall
    assert any(isinstance(event, events.SpeechStarted) for event in told(talk.hear(SPEECH)))


def test_a_gap_in_the_stream_in_an_onset_leaves_the_onset() -> None:
    talk = Talk()
    talk.spoken_turn()
    talk.hear((0.9, 2))
    assert talk.session.listening.stall(talk.now_s) == []
    effects = talk.hear((0.9, 2))
    assert told(effects)[-1] == started("2", 26)


def test_what_belonged_to_the_turn_before_it_was_spoken_still_does() -> None:
    talk = Talk()
    talk.session.inputs.say("item", ("Look:",))
    talk.spoken_turn()
    talk.hear((0.9, 4))
    assert len(talk.session.inputs.pending) == 1
    assert asked(talk.hear(END)).conversation.user.parts[0] == "Look:"
    assert len(talk.session.inputs.pending) == 0


def test_turns_that_nobody_answers_by_itself_stay_ended() -> None:
    talk = Talk()
    talk.session.use_config(talk.session.config.model_copy(update={"answers_turns": False}))
    talk.spoken_turn()
    assert not talk.session.listening.detector.is_reopenable
    assert len(talk.session.inputs.pending) == 1


def test_a_turn_that_was_refused_stays_ended() -> None:
    talk = Talk(barge_in=False)
    for _ in range(65):
        talk.text("Hi")
    assert any(isinstance(event, events.Failed) for event in told(talk.spoken_turn()))
    assert not talk.session.listening.detector.is_reopenable


def test_dictated_sentences_stay_apart_unless_somebody_wants_them_together() -> None:
    for options, event in (
        ({"mode": "transcribe"}, events.SpeechStarted),
        ({"mode": "transcribe", "reopen_ms": 500}, events.TurnReopened),
    ):
        talk = Talk(**options)
        talk.spoken_turn()
        talk.finishes("1")
        assert isinstance(told(talk.hear((0.9, 4)))[-1], event)


def test_sound_that_has_no_room_twice_is_not_kept() -> None:
    talk = Talk()
    talk.session = Session("s", SessionConfig(max_length=1), 0.0, max_bytes=8 << 20)
    talk.hear((0.9, 300), END)
    talk.finishes("1")
    assert talk.session.listening.detector.is_reopenable
    talk.session.memory.hold(lambda: 4 << 20)
    talk.hear((0.0, 1))
    assert not talk.session.listening.detector.is_reopenable


def test_sound_that_nobody_else_holds_is_counted() -> None:
    talk = Talk(mode="transcribe", reopen_ms=800)
    talk.spoken_turn()
    held = talk.session.listening.turns.reopening
    assert held.bytes == 0
    talk.finishes("1")
    assert held.bytes == 25 * 2048
    talk.hear(LATER)
    assert held.bytes == 0


def test_no_more_frames_are_held_than_since_the_end_of_the_turn() -> None:
    talk = Talk()
    talk.hear((0.9, 1000), END, (0.0, 10))
    assert len(talk.session.listening.heard) == 11 + 10
    talk.hear((0.0, 200))
    assert len(talk.session.listening.heard) == 10


def test_a_turn_of_its_own_follows_later() -> None:
    talk = Talk()
    talk.spoken_turn()
    talk.finishes("1")
    effects = talk.hear(LATER, SPEECH, END)
    assert told(effects)[0] == started("2", 52)
    assert len(talk.session.history) == 1


def test_what_was_answered_ahead_is_taken_back_too() -> None:
    talk = Talk()
    talk.session = Session("s", SessionConfig(), 0.0, speculates=True)
    effects = talk.hear(SPEECH, (0.0, 5))
    (ahead,) = [e.generation_id for e in effects if isinstance(e, Generate)]
    talk.says(ahead, "You ", 1)
    assert Commit(ahead) in talk.hear((0.0, 11))
    effects = talk.hear((0.9, 4))
    assert Cancel(ahead) in effects
    assert told(effects)[-1] == reopened()
    effects = talk.hear(END)
    assert told(effects)[0] == ended("1", 0, 45)


def test_a_pause_that_was_taken_for_an_end_is_guessed_at_later() -> None:
    talk = Talk()
    talk.session = Session("s", SessionConfig(), 0.0, speculates=True)
    talk.spoken_turn()
    talk.hear((0.9, 4))
    policy = talk.session.listening.turns.speculator.policy
    assert list(policy.pauses) == [15]


def test_a_session_that_moves_while_its_turn_goes_on_hears_the_whole_turn_there() -> None:
    talk = Talk()
    received = 0

    def hear(*stretches: tuple[float, int]) -> None:
        nonlocal received
        for probability, frames in stretches:
            for _ in range(frames):
                received += 1024
                talk.session.listening.audio_bytes_received = received
                talk.hear((probability, 1))

    hear((0.0, 50), SPEECH, END)
    talk.finishes("1")
    assert talk.session.record().audio_bytes == received
    hear((0.9, 4))
    record = talk.session.record()
    assert record.history == ()
    # The pre-roll of ten frames is part of the turn.
    assert record.audio_bytes == 41 * 1024
    hear((0.9, 4), END)
    talk.finishes("1.1")
    assert talk.session.record().audio_bytes == received


def test_partial_transcripts_go_on_with_the_turn() -> None:
    talk = Talk(interim=True)
    effects = talk.hear((0.9, 40))
    (partial,) = requests(effects)
    talk.says(partial, "good day", 1)
    talk.finishes(partial)
    talk.hear(END, (0.9, 4))
    effects = talk.hear((0.9, 31))
    (again,) = [key for key in requests(effects) if key.startswith("partial-1-")]
    assert frames_of(requests(effects)[again])[0] == 0


# How much speech interrupts.


def test_speech_that_is_shorter_than_asked_for_neither_stops_a_response_nor_is_a_turn() -> None:
    talk = Talk(barge_in_ms=500)
    talk.text()
    assert told(talk.hear((0.0, 50), (0.9, 15), (0.0, 40))) == []
    assert talk.session.queue_size == 1
    effects = talk.hear((0.9, 16))
    assert Cancel("1") in effects
    assert told(effects)[-1] == started("2", 95)


def test_nothing_of_the_speech_that_interrupts_is_lost() -> None:
    talk = Talk(barge_in_ms=800)
    talk.text()
    effects = talk.hear((0.0, 50), (0.9, 30), END)
    assert frames_of(requests(effects)["2"]) == list(range(40, 85))


def test_a_short_word_is_a_turn_where_nothing_is_being_said() -> None:
    talk = Talk(barge_in_ms=2000)
    assert told(talk.hear((0.0, 20), (0.9, 5))) == [started("1", 10)]


@pytest.mark.parametrize("options", [{"barge_in": False}, {"mode": "transcribe"}])
def test_where_speech_interrupts_nothing_a_short_word_is_a_turn(options: dict[str, object]) -> None:
    talk = Talk(barge_in_ms=2000, **options)
    talk.text()
    assert told(talk.hear((0.0, 20), (0.9, 5))) == [started("2", 10)]


def test_more_of_a_turn_need_not_be_long_enough_to_interrupt() -> None:
    talk = Talk(barge_in_ms=2000)
    talk.spoken_turn()
    assert told(talk.hear((0.9, 4)))[-1] == reopened()


# Transcripts.


def transcript_of(effects: list[Effect]) -> str:
    (found,) = [key for key in requests(effects) if key.startswith("transcript")]
    return found


def test_the_words_of_a_spoken_turn_are_told_beside_its_answer() -> None:
    talk = Talk(transcript=True, language="en")
    effects = talk.spoken_turn()
    wanted = transcript_of(effects)
    request = requests(effects)[wanted]
    assert request.urgency is Urgency.TRANSCRIPT
    assert request.conversation.transcribe
    assert request.conversation.language == "en"
    assert request.conversation.user.parts == requests(effects)["1"].conversation.user.parts
    assert request.sampling.temperature == 0.0
    assert talk.says(wanted, " Good", 1) == []
    assert talk.says(wanted, " day.", 2) == []
    assert talk.finishes(wanted) == [Tell(events.Transcript("1", "Good day."))]
    assert talk.session.queue_size == 1
    talk.finishes("1")
    assert [exchange.user.heard for exchange in talk.session.history] == ["Good day."]


def test_words_that_come_after_the_answer_are_remembered_too() -> None:
    talk = Talk(transcript=True)
    wanted = transcript_of(talk.spoken_turn())
    talk.finishes("1")
    before = talk.session.memory.bytes
    talk.says(wanted, "Good day.", 1)
    talk.finishes(wanted)
    (exchange,) = talk.session.history
    assert exchange.user.heard == "Good day."
    assert '["Good day.", ""]' in talk.session.record().as_json()
    assert talk.session.memory.bytes < before


def test_turns_are_written_down_one_after_the_other() -> None:
    talk = Talk(transcript=True, reopen_ms=0, barge_in=False)
    first = transcript_of(talk.spoken_turn())
    assert [key for key in requests(talk.spoken_turn()) if key.startswith("transcript")] == []
    effects = talk.finishes(first)
    assert told(effects) == [events.Transcript("1", "")]
    talk.says(transcript_of(effects), "Two.", 1)
    assert told(talk.finishes(transcript_of(effects))) == [events.Transcript("2", "Two.")]


def test_words_that_cannot_be_found_out_are_told_as_such() -> None:
    talk = Talk(transcript=True)
    wanted = transcript_of(talk.spoken_turn())
    (failed,) = told(talk.session.on_event(wanted, Failed(EngineFailure("no")), talk.now_s))
    assert isinstance(failed, events.Transcript)
    assert (failed.text, str(failed.error and failed.error.message)) == ("", "no")
    assert requests(talk.finishes("1")) == {}


def test_a_turn_that_goes_on_is_written_down_whole() -> None:
    talk = Talk(transcript=True)
    first = transcript_of(talk.spoken_turn())
    effects = talk.hear((0.9, 4))
    assert Cancel(first) in effects
    effects = talk.hear(END)
    again = transcript_of(effects)
    assert again != first
    assert frames_of(requests(effects)[again]) == list(range(45))
    talk.says(again, "All.", 1)
    assert told(talk.finishes(again)) == [events.Transcript("1", "All.")]


def test_a_turn_whose_words_wait_is_not_written_down_twice_when_it_goes_on() -> None:
    talk = Talk(transcript=True, barge_in=False)
    first = transcript_of(talk.hear(SPEECH, END, LATER))
    talk.hear(SPEECH, END)
    effects = talk.hear((0.9, 4))
    assert Cancel(first) not in effects
    talk.hear(END)
    second = transcript_of(talk.finishes(first))
    talk.says(second, "All.", 1)
    assert told(talk.finishes(second)) == [events.Transcript("2", "All.")]


@pytest.mark.parametrize("options", [{}, {"transcript": True, "mode": "transcribe"}])
def test_without_a_wish_and_where_the_answer_is_one_there_is_no_transcript(
    options: dict[str, object],
) -> None:
    assert requests(Talk(**options).spoken_turn()).keys() == {"1"}


def test_too_many_words_that_wait_are_told_as_such_and_the_turn_is_answered() -> None:
    talk = Talk(transcript=True, reopen_ms=0)
    transcripts = talk.session.listening.turns.transcripts
    sound = Audio(np.zeros(512, np.float32))
    for number in range(64):
        transcripts.add(f"x{number}", sound)
    effects = talk.spoken_turn()
    (failed,) = [event for event in told(effects) if isinstance(event, events.Transcript)]
    assert failed.error is not None
    assert failed.error.code == "RATE_LIMITED"
    assert requests(effects).keys() == {"1"}
    assert transcripts.bytes > 64 * sound.nbytes


def test_words_without_room_are_told_as_such() -> None:
    talk = Talk(transcript=True)
    memory = talk.session.memory
    memory.hold(lambda: memory.limit_bytes)
    (effect,) = talk.session.listening.turns.transcripts.add("1", Audio(np.zeros(512, np.float32)))
    assert isinstance(effect, Tell)
    assert isinstance(effect.event, events.Transcript)
    assert effect.event.error is not None


def test_a_session_that_ends_wants_no_more_words() -> None:
    talk = Talk(transcript=True)
    wanted = transcript_of(talk.spoken_turn())
    assert Cancel(wanted) in talk.session.give_up()
    assert talk.session.on_event(wanted, DONE, talk.now_s) == []
    assert talk.session.listening.turns.transcripts.bytes == 0


def test_a_transcript_has_no_history_that_could_be_trimmed() -> None:
    talk = Talk(transcript=True)
    wanted = transcript_of(talk.spoken_turn())
    assert talk.session.on_event(wanted, HistoryTrimmed(1), talk.now_s) == []
