"""What of the answers is spoken, and what the history keeps of those that were cut."""

import pytest

from tests.sessions.test_session import DONE, Talk
from voxtral_worker.engine.conversation import AssistantTurn
from voxtral_worker.engine.request import Failed
from voxtral_worker.errors import BadInput, EngineFailure, SpeechFailed
from voxtral_worker.sessions import events
from voxtral_worker.sessions.effects import Effect, EndSpeech, Hush, Speak, Tell
from voxtral_worker.speech.pieces import SpeechFormat, SpokenPiece

FORMAT = SpeechFormat("default", "pcm_s16le", 24_000)


class SpokenTalk(Talk):
    """A session with a listener; its voice says a character in 100 ms."""

    def __init__(self, **options: object) -> None:
        super().__init__(**{"voice": "default", **options})
        self.session.answers.speaking.is_listened_to = lambda: True

    def spoke(self, turn_id: str, text: str, *, is_final: bool = False) -> list[Effect]:
        piece = SpokenPiece(turn_id, text, b"sound", 100 * len(text), is_final)
        return self.session.answers.speaking.spoke(piece, self.now_s)

    def answered(self, *texts: str, turn_id: str = "1") -> list[Effect]:
        """A text is answered, and its speech is sent."""
        effects = self.text()
        for text in texts:
            effects += self.says(turn_id, text, 1)
        effects += self.finishes(turn_id, DONE)
        for text in texts:
            effects += self.spoke(turn_id, text, is_final=text == texts[-1])
        return effects

    def last_answer(self) -> AssistantTurn:
        return self.session.history[-1].assistant


def speech(effects: list[Effect]) -> list[Effect]:
    return [each for each in effects if isinstance(each, Speak | EndSpeech | Hush)]


def told(effects: list[Effect], kind: type) -> list[events.Event]:
    return [e.event for e in effects if isinstance(e, Tell) and isinstance(e.event, kind)]


def test_words_are_spoken_as_they_come_and_their_end_is_told() -> None:
    talk = SpokenTalk()
    talk.text()
    assert speech(talk.says("1", "The light ", 1)) == [Speak("1", "The light ", FORMAT)]
    assert speech(talk.says("1", "is on.", 2)) == [Speak("1", "is on.", FORMAT)]
    finished = talk.finishes("1")
    assert speech(finished) == [EndSpeech("1")]
    (answered,) = told(finished, events.Answered)
    assert isinstance(answered, events.Answered)
    assert answered.is_being_spoken


def test_without_deltas_on_the_wire_the_words_are_spoken_all_the_same() -> None:
    talk = SpokenTalk(stream=False)
    talk.text()
    effects = talk.says("1", "Yes.", 1)
    assert effects == [Speak("1", "Yes.", FORMAT)]


@pytest.mark.parametrize("options", [{"voice": None}, {"mode": "transcribe"}])
def test_answers_are_spoken_only_where_a_voice_is_wanted(options: dict[str, object]) -> None:
    talk = SpokenTalk(**options)
    talk.text()
    assert speech(talk.says("1", "Yes.", 1) + talk.finishes("1")) == []


def test_nothing_is_spoken_to_nobody() -> None:
    talk = SpokenTalk()
    talk.session.answers.speaking.is_listened_to = lambda: False
    talk.text()
    assert speech(talk.says("1", "Yes.", 1) + talk.finishes("1")) == []


def test_the_format_is_what_the_config_says() -> None:
    talk = SpokenTalk(output_encoding="mulaw", output_sample_rate=8000, language="en")
    talk.text()
    (spoken,) = speech(talk.says("1", "Yes.", 1))
    assert spoken == Speak("1", "Yes.", SpeechFormat("default", "mulaw", 8000, "en"))


def test_a_piece_is_told_where_speech_is_heard_with_its_place_in_the_turn() -> None:
    talk = SpokenTalk()
    talk.text()
    talk.says("1", "Yes. No.", 1)
    assert talk.spoke("1", "Yes. ") == [Tell(events.Spoken("1", "Yes. ", b"sound", 0, 500))]
    assert talk.spoke("1", "No.") == [Tell(events.Spoken("1", "No.", b"sound", 500, 300))]


def test_speech_over_a_response_keeps_the_words_that_were_heard() -> None:
    talk = SpokenTalk()
    talk.text()
    talk.says("1", "The light is on. You may go now.", 1, 2)
    talk.spoke("1", "The light is on. ")
    # Half of it is heard when the user speaks.
    effects = talk.hear((0.0, 26), (0.9, 10))
    assert speech(effects) == [Hush()]
    assert told(effects, events.Stopped) == [events.Stopped("1", events.Why.SPOKEN_OVER)]
    (answered,) = told(effects, events.Answered)
    assert isinstance(answered, events.Answered)
    assert not answered.is_being_spoken
    heard = talk.last_answer().text
    assert heard is not None
    assert "The light is on. ".startswith(heard)
    assert 4 <= len(heard) < 17


def test_speech_over_speech_alone_interrupts_it_and_shortens_the_history() -> None:
    talk = SpokenTalk()
    talk.answered("The light is on. ", "You may go now.")
    assert talk.last_answer() == AssistantTurn((1, 1))
    effects = talk.hear((0.0, 50), (0.9, 10))
    assert told(effects, events.Stopped) == [events.Stopped("1", events.Why.SPOKEN_OVER)]
    assert told(effects, events.Answered) == []
    heard = talk.last_answer().text
    assert heard is not None
    assert heard.startswith("The light is on. ")
    assert "now" not in heard


def test_speech_after_speech_that_was_heard_to_its_end_interrupts_nothing() -> None:
    talk = SpokenTalk()
    talk.answered("Yes.")
    effects = talk.hear((0.0, 30), (0.9, 10))
    assert told(effects, events.Stopped) == []
    assert talk.last_answer() == AssistantTurn((1,))


def test_an_answer_of_which_nothing_was_sent_was_not_heard() -> None:
    talk = SpokenTalk()
    talk.text()
    talk.says("1", "The light is on.", 1)
    talk.finishes("1")
    effects = talk.hear((0.9, 10))
    assert speech(effects) == [Hush()]
    assert told(effects, events.Stopped) == [events.Stopped("1", events.Why.SPOKEN_OVER)]
    assert talk.last_answer() == AssistantTurn(text="")


def test_two_answers_that_are_being_heard_are_both_interrupted() -> None:
    talk = SpokenTalk()
    talk.answered("A first answer.")
    talk.answered("A second one.", turn_id="2")
    effects = talk.hear((0.0, 20), (0.9, 10))
    stopped = told(effects, events.Stopped)
    assert stopped == [events.Stopped(turn_id, events.Why.SPOKEN_OVER) for turn_id in ("1", "2")]
    first, second = (exchange.assistant.text for exchange in talk.session.history)
    assert first is not None and "A first answer.".startswith(first)
    assert second == ""


def test_without_barge_in_nobody_is_interrupted() -> None:
    talk = SpokenTalk(barge_in=False)
    talk.answered("A long answer it is.")
    effects = talk.hear((0.9, 20), (0.0, 5))
    assert speech(effects) == []
    assert told(effects, events.Stopped) == []


def test_cancel_stops_speech_that_is_being_heard() -> None:
    talk = SpokenTalk()
    talk.answered("A long answer it is.")
    effects = talk.session.cancel(talk.now_s)
    assert told(effects, events.Stopped) == [events.Stopped("1", events.Why.CANCELLED)]
    assert talk.last_answer() == AssistantTurn(text="")
    # And nothing is left to be stopped.
    effects = talk.session.cancel(talk.now_s)
    assert told(effects, events.Stopped) == [events.Stopped(None, events.Why.CANCELLED)]


def test_the_clients_own_word_is_what_was_heard() -> None:
    talk = SpokenTalk()
    talk.answered("The light is on. ", "You may go now.")
    talk.session.cancel(talk.now_s + 3.0)
    assert talk.session.answers.speaking.played("1", 900, talk.now_s + 3.1) == "The light "
    assert talk.last_answer() == AssistantTurn(text="The light ")


def test_a_client_that_tells_how_far_it_is_shortens_nothing() -> None:
    talk = SpokenTalk()
    talk.answered("The light is on. ", "You may go now.")
    talk.session.answers.speaking.played("1", 400, talk.now_s)
    assert talk.last_answer() == AssistantTurn((1, 1))
    # It is what counts once the speech is cut.
    talk.session.cancel(talk.now_s + 0.5)
    assert talk.last_answer() == AssistantTurn(text="The light ")


def test_a_client_that_plays_no_more_shortens_any_answer() -> None:
    talk = SpokenTalk()
    talk.answered("The light is on.")
    talk.session.answers.speaking.played("1", 900, talk.now_s + 10, is_all=True)
    assert talk.last_answer() == AssistantTurn(text="The light ")


def test_a_turn_whose_speech_is_not_known_is_named() -> None:
    talk = SpokenTalk()
    with pytest.raises(BadInput, match="turn_id is '7', but no speech of such a turn is known"):
        talk.session.answers.speaking.played("7", 400, 0.0)


def test_what_was_forgotten_is_not_remembered_by_halves() -> None:
    talk = SpokenTalk()
    talk.answered("A long answer it is.")
    talk.session.clear_history()
    talk.session.cancel(talk.now_s)
    assert talk.session.history == ()


def test_a_voice_that_fails_is_told_once_and_leaves_the_text() -> None:
    talk = SpokenTalk()
    talk.text()
    talk.says("1", "One. Two", 1)
    error = SpeechFailed("gone")
    assert talk.session.answers.speaking.voice_failed("1", error, is_news=True) == [
        Tell(events.Refused(error))
    ]
    assert talk.session.answers.speaking.voice_failed("1", error, is_news=False) == []
    talk.spoke("1", "", is_final=True)
    assert speech(talk.says("1", " and three.", 2)) == []
    # The words are all known to the user, who can read them.
    effects = talk.hear((0.9, 10))
    assert told(effects, events.Stopped) == [events.Stopped("1", events.Why.SPOKEN_OVER)]
    assert talk.last_answer() == AssistantTurn((1, 2))


def test_a_voice_that_has_failed_still_learns_where_the_words_end() -> None:
    talk = SpokenTalk()
    talk.text()
    talk.says("1", "One. Two", 1)
    talk.session.answers.speaking.voice_failed("1", SpeechFailed("gone"), is_news=True)
    talk.spoke("1", "", is_final=True)
    finished = talk.finishes("1")
    assert speech(finished) == [EndSpeech("1")]
    (answered,) = told(finished, events.Answered)
    assert isinstance(answered, events.Answered)
    assert not answered.is_being_spoken
    assert not talk.session.answers.speaking.is_spoken("1")


def test_a_voice_that_fails_for_a_turn_that_is_over_changes_nothing() -> None:
    speaking = SpokenTalk().session.answers.speaking
    assert speaking.voice_failed("9", SpeechFailed("gone"), is_news=False) == []
    assert not speaking.is_spoken("9")


def test_a_cancel_of_what_a_failed_voice_has_left_is_told() -> None:
    talk = SpokenTalk()
    talk.text()
    talk.says("1", "One.", 1)
    talk.session.answers.speaking.voice_failed("1", SpeechFailed("gone"), is_news=True)
    talk.finishes("1")
    effects = talk.session.cancel(talk.now_s)
    assert told(effects, events.Stopped) == [events.Stopped(None, events.Why.CANCELLED)]


def test_a_response_that_fails_ends_its_speech() -> None:
    talk = SpokenTalk()
    talk.text()
    talk.says("1", "One. ", 1)
    effects = talk.session.on_event("1", Failed(EngineFailure("it broke")), talk.now_s)
    assert speech(effects) == [EndSpeech("1")]


def test_the_end_of_a_session_is_the_end_of_its_speech() -> None:
    talk = SpokenTalk()
    talk.text()
    talk.says("1", "One. ", 1)
    assert Hush() in talk.session.give_up()


def test_a_turn_that_is_reopened_while_its_answer_is_heard_takes_the_speech_back() -> None:
    talk = SpokenTalk()
    talk.spoken_turn()
    talk.says("1", "The light is on.", 1)
    talk.finishes("1", DONE)
    talk.spoke("1", "The light is on.", is_final=True)
    effects = talk.hear((0.9, 4))
    assert told(effects, events.Stopped) == [events.Stopped("1", events.Why.SPOKEN_OVER)]
    assert told(effects, events.TurnReopened) == [events.TurnReopened("1", 0)]
    assert talk.session.history == ()
    talk.hear((0.0, 16))
    assert speech(talk.says("1.1", "Both are on.", 2)) == [Speak("1", "Both are on.", FORMAT)]


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_turn_that_goes_on_takes_its_speech_back(is_whole: bool) -> None:
    talk = SpokenTalk()
    talk.spoken_turn()
    talk.says("1", "The light is on. And more", 1)
    if is_whole:
        talk.finishes("1")
    talk.spoke("1", "The light is on. ")
    effects = talk.hear((0.9, 10))
    assert told(effects, events.TurnReopened)
    assert told(effects, events.Stopped) == [events.Stopped("1", events.Why.SPOKEN_OVER)]
    assert Hush() in effects
    assert talk.session.history == ()
    # Its next answer is spoken from its own beginning.
    talk.hear((0.0, 16))
    talk.says("1.1", "Yes.", 2)
    (spoken,) = told(talk.spoke("1", "Yes."), events.Spoken)
    assert isinstance(spoken, events.Spoken)
    assert spoken.offset_ms == 0
