"""What is said and not to be answered yet opens the user's next turn."""

import numpy as np
import pytest

from tests.sessions.test_session import DONE, Talk, ended, requests, response, started, told
from tests.support.native_session import written
from voxtral_worker.engine.conversation import (
    AssistantTurn,
    Audio,
    Conversation,
    Exchange,
    UserTurn,
)
from voxtral_worker.engine.request import HistoryTrimmed, Urgency
from voxtral_worker.errors import BadInput, RateLimited
from voxtral_worker.sessions import events
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Cancel, Effect, Generate, Settle, Tell
from voxtral_worker.sessions.session import Session
from voxtral_worker.sessions.turn_queue import MAX_WAITING

SOUND = Audio(np.zeros(1600, np.float32))


def respond(talk: Talk, config: SessionConfig | None = None) -> list[Effect]:
    return talk.session.inputs.respond(talk.now_s, config)


def asked(effects: list[Effect]) -> Conversation:
    (request,) = requests(effects).values()
    return request.conversation


def guessing_talk(**options: object) -> Talk:
    talk = Talk()
    config = SessionConfig().updated(options)
    talk.session = Session("s", config, 0.0, speculates=True)
    return talk


def test_all_that_was_said_is_one_turn_with_a_blank_line_between_texts() -> None:
    talk = Talk()
    for key, parts in {"a": ("One",), "b": ("two.", SOUND), "c": ("Three",)}.items():
        assert talk.session.inputs.say(key, parts) == []
    assert len(talk.session.inputs.pending) == 3
    effects = respond(talk)
    assert effects[0] == Tell(events.Accepted("1"))
    assert asked(effects).user == UserTurn(("One", "\n\n", "two.", SOUND, "Three"))
    assert len(talk.session.inputs.pending) == 0
    assert response(talk.finishes("1")).source == "audio"
    assert talk.session.history[0].user == asked(effects).user


def test_texts_alone_are_a_turn_of_text() -> None:
    talk = Talk()
    talk.session.inputs.say("a", ("Hi",))
    respond(talk)
    assert response(talk.finishes("1")).source == "text"


def test_what_is_taken_back_was_never_said() -> None:
    talk = Talk()
    talk.session.inputs.say("a", ("One",))
    talk.session.inputs.say("b", ("Two",))
    assert talk.session.inputs.unsay("a") == []
    assert talk.session.inputs.unsay("a") is None
    assert asked(respond(talk)).user == UserTurn(("Two",))
    assert talk.session.inputs.unsay("b") is None


def test_where_nothing_new_was_said_the_instructions_are_answered() -> None:
    talk = Talk(system_prompt="Be kind.")
    own = talk.session.config.model_copy(update={"system_prompt": "Greet the user."})
    for config, words in ((own, "Greet the user."), (None, "Be kind.")):
        said = asked(respond(talk, config))
        assert (said.user, said.system_prompt) == (UserTurn((words,)), None)
        talk.finishes(str(len(talk.session.history) + 1))
    assert [exchange.user.parts for exchange in talk.session.history] == [
        ("Greet the user.",),
        ("Be kind.",),
    ]
    assert asked(talk.text()).system_prompt == "Be kind."
    assert asked(respond(Talk())).user == UserTurn(())


def test_a_context_of_its_own_is_answered_in_place_of_the_conversation() -> None:
    talk = Talk()
    talk.text("Hello?")
    talk.finishes("1")
    talk.session.inputs.say("a", ("Later.",))
    before = (Exchange(UserTurn(("One",)), AssistantTurn(text="Two")),)
    context = (before, UserTurn(("Three",)), ())
    effects = talk.session.inputs.respond(talk.now_s, context=context)
    assert (asked(effects).history, asked(effects).user) == context[:2]
    talk.finishes("2")
    assert talk.session.history[1].user == UserTurn(())
    assert len(talk.session.inputs.pending) == 1


def test_a_response_beside_the_conversation_leaves_it_as_it_is() -> None:
    talk = Talk()
    talk.text("Hello?")
    talk.finishes("1")
    talk.session.inputs.say("a", ("Who?",))
    history = talk.session.history
    effects = talk.session.inputs.respond(talk.now_s, joins=False)
    assert (asked(effects).history, asked(effects).user) == (history, UserTurn(("Who?",)))
    # What the engine leaves out of its prompt is not forgotten by the conversation.
    talk.session.on_event("2", HistoryTrimmed(1), talk.now_s)
    talk.finishes("2")
    assert talk.session.history == history
    assert asked(respond(talk)).user == UserTurn(("Who?",))


def test_too_many_turns_that_wait_are_not_answered() -> None:
    talk = Talk()
    talk.session.inputs.say("a", ("One",))
    for number in range(MAX_WAITING + 1):
        talk.text(str(number))
    with pytest.raises(RateLimited):
        respond(talk)
    assert len(talk.session.inputs.pending) == 1


def test_a_response_may_have_options_of_its_own() -> None:
    talk = Talk(system_prompt="Be kind.", max_length=9)
    talk.session.inputs.say("a", ("Hi",))
    own = talk.session.config.model_copy(update={"system_prompt": "Be brief.", "max_length": 3})
    (request,) = requests(respond(talk, own)).values()
    assert request.conversation.system_prompt == "Be brief."
    assert request.sampling.max_tokens == 3
    talk.finishes("1")
    (request,) = requests(talk.text()).values()
    assert request.conversation.system_prompt == "Be kind."
    assert request.sampling.max_tokens == 9


def test_an_answer_from_outside_is_remembered() -> None:
    talk = Talk()
    assert talk.session.inputs.remember("Good day.") == []
    talk.session.inputs.say("a", ("Hi",))
    assert talk.session.inputs.remember("Hello.") == []
    greeting, exchange = talk.session.history
    assert greeting == Exchange(UserTurn(()), AssistantTurn(text="Good day."))
    assert exchange.user == UserTurn(("Hi",))
    assert exchange.assistant == AssistantTurn(text="Hello.")
    talk.text()
    talk.session.inputs.say("b", ("Who?",))
    with pytest.raises(BadInput, match="while a response is being made"):
        talk.session.inputs.remember("Me.")


def test_speech_takes_what_was_said_before_it_along() -> None:
    talk = Talk()
    talk.session.inputs.say("a", ("Listen:",))
    text, audio = asked(talk.spoken_turn()).user.parts
    assert text == "Listen:"
    assert isinstance(audio, Audio)
    assert len(talk.session.inputs.pending) == 0


def test_a_turn_that_is_not_answered_by_itself_waits_to_be_asked_for() -> None:
    talk = Talk()
    talk.session.use_config(talk.session.config.model_copy(update={"answers_turns": False}))
    effects = talk.spoken_turn()
    assert told(effects) == [started("1", 0), ended("1", 0, 25)]
    assert requests(effects) == {}
    (audio,) = asked(respond(talk)).user.parts
    assert isinstance(audio, Audio)


def test_a_turn_says_where_in_the_audio_it_was_to_those_who_ask() -> None:
    talk = Talk()
    effects = talk.hear((0.0, 100), (0.9, 20), (0.0, 16))
    first, last = told(effects)[:2]
    assert isinstance(first, events.SpeechStarted) and isinstance(last, events.SpeechEnded)
    assert first.start_ms == 90 * 32
    assert (last.start_ms, last.end_ms) == (90 * 32, 125 * 32)
    assert last.audio is asked(effects).user.parts[0]
    fields = {"status": "speech_ended", "turn_id": "1", "reason": "silence"}
    assert written(last).fields == fields


def test_speech_that_is_to_be_forgotten_leaves_no_turn() -> None:
    talk = Talk(interim=True)
    partial = next(e for e in talk.hear((0.9, 60)) if isinstance(e, Generate))
    assert talk.session.listening.forget_turn() == [Cancel(partial.generation_id)]
    assert not talk.session.listening.has_open_turn
    assert told(talk.hear((0.0, 40))) == []
    assert talk.session.listening.forget_turn() == []
    assert "2" in requests(talk.spoken_turn())


def test_a_guess_knows_what_was_said_and_is_dropped_when_more_is_said() -> None:
    talk = guessing_talk()
    talk.session.inputs.say("a", ("Listen:",))
    (guess,) = requests(talk.hear((0.9, 20), (0.0, 8))).items()
    assert guess[1].urgency is Urgency.SPECULATION
    assert guess[1].conversation.user.parts[0] == "Listen:"
    assert talk.session.inputs.say("b", ("Well?",)) == [Cancel(guess[0])]
    parts = asked(talk.hear((0.0, 16))).user.parts
    assert parts[:3] == ("Listen:", "\n\n", "Well?")
    assert len(parts) == 4


def test_a_guess_that_was_right_answers_what_was_said_before_it_too() -> None:
    talk = guessing_talk()
    talk.session.inputs.say("a", ("Listen:",))
    effects = talk.hear((0.9, 20), (0.0, 16))
    (generation_id,) = requests(effects)
    assert len(talk.session.inputs.pending) == 0
    done = talk.session.on_event(generation_id, DONE, talk.now_s)
    assert response(done).source == "audio"
    (exchange,) = talk.session.history
    assert exchange.user.parts[0] == "Listen:"


def test_there_is_no_guess_at_what_is_not_answered_by_itself() -> None:
    talk = guessing_talk()
    (generation_id,) = requests(talk.hear((0.9, 20), (0.0, 8)))
    config = talk.session.config.model_copy(update={"answers_turns": False})
    assert talk.session.use_config(config) == [Cancel(generation_id)]
    assert requests(talk.hear((0.0, 16), (0.9, 20), (0.0, 16))) == {}
    assert len(talk.session.inputs.pending) == 2
    wasted = talk.session.on_event(generation_id, DONE, talk.now_s)
    assert all(isinstance(effect, Settle) for effect in wasted)


def test_at_the_end_nothing_is_left_to_answer() -> None:
    talk = Talk()
    talk.session.inputs.say("a", ("Hi",))
    talk.session.give_up()
    assert len(talk.session.inputs.pending) == 0
