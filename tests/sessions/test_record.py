import json

import numpy as np
import pytest

from tests.support.native_session import native
from voxtral_worker.engine.conversation import AssistantTurn, Audio, Exchange, UserTurn
from voxtral_worker.engine.request import Delta, Failed, Finished, GenerationEvent, Timings, Usage
from voxtral_worker.errors import EngineFailure
from voxtral_worker.sessions import events
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Generate
from voxtral_worker.sessions.record import (
    MAX_HISTORY_BYTES,
    UNKNOWN_WORDS,
    SessionRecord,
    read_record,
)
from voxtral_worker.sessions.session import TURNS_UNTOLD, Session

DONE = Finished("stop", Usage(10, 2, 4), Timings(0.0, 0.01, 0.02))
CONFIG = SessionConfig().updated({"language": "de", "temperature": 0})


def new_session(**options: object) -> Session:
    return Session("s", SessionConfig().updated(options), 0.0)


def hear(session: Session, *stretches: tuple[float, int]) -> None:
    """Frames of a speech probability; each came as 1024 bytes."""
    for probability, frames in stretches:
        for _ in range(frames):
            session.listening.audio_bytes_received += 1024
            session.listening.hear(np.ones((1, 512), np.float32), [probability], 0.0)


def answer(session: Session, turn_id: str, text: str, last: GenerationEvent = DONE) -> None:
    session.on_event(turn_id, Delta(text, (1, 2)), 0.0)
    session.on_event(turn_id, last, 0.0)


def moved(session: Session) -> Session:
    """The session as another worker continues it."""
    record = read_record(session.record().as_json())
    there = Session("s", record.config, 0.0)
    there.go_on_from(record)
    return there


def test_another_worker_goes_on_with_the_same_config_and_conversation() -> None:
    here = new_session(language="de", system_prompt="Be brief.", temperature=0)
    here.inputs.text("Grüße", 0.0, to="control")
    answer(here, "1", "Hallo.")
    there = moved(here)
    assert there.config == here.config
    (effect,) = [
        effect
        for effect in there.inputs.text("two", 0.0, to="control")
        if isinstance(effect, Generate)
    ]
    conversation = effect.request.conversation
    assert conversation.history == (Exchange(UserTurn(("Grüße",)), AssistantTurn(text="Hallo.")),)
    assert conversation.system_prompt == "Be brief."


def test_what_was_taken_over_can_be_taken_over_again() -> None:
    here = new_session()
    here.inputs.text("one", 0.0, to="control")
    answer(here, "1", "First.")
    assert moved(moved(here)).history == moved(here).history


def test_numbers_of_messages_and_turns_rise_across_workers() -> None:
    here = new_session()
    here.message_count, here.error_count = 7, 1
    before = native(here)
    for _ in range(3):
        before.tell(events.Accepted("1"), None)
    here.inputs.text("one", 0.0)
    there = moved(here)
    after = native(there)
    after.go_on_from(read_record(here.record(before.seqs).as_json()).seqs)
    after.tell(events.Accepted("2"), None)
    assert after.seqs == {"audio": 4, "control": 0}
    assert (there.message_count, there.error_count) == (7, 1)
    there.inputs.text("two", 0.0)
    assert there.record().turns == 1 + TURNS_UNTOLD + 1


def test_sound_stays_and_a_note_stands_for_words_that_are_not_known() -> None:
    here = new_session()
    hear(here, (0.9, 20), (0.0, 16))
    answer(here, "1", "Yes.")
    assert json.loads(here.record().as_json())["history"] == [[UNKNOWN_WORDS, "Yes."]]


def test_the_last_transcript_of_a_spoken_turn_stands_for_it() -> None:
    here = new_session(interim=True)
    hear(here, (0.9, 60))
    partial = here.listening.turns.partials.generation_id
    assert partial is not None
    here.on_event(partial, Delta("what is the", ()), 0.0)
    here.on_event(partial, DONE, 0.0)
    hear(here, (0.0, 16))
    answer(here, "1", "Yes.")
    assert json.loads(here.record().as_json())["history"] == [["what is the", "Yes."]]


def test_texts_beside_sound_are_what_was_asked() -> None:
    user = UserTurn((Audio(np.zeros(8, np.float32)), "what", "is it?"))
    history = (Exchange(user, AssistantTurn(text="A bell.")),)
    record = SessionRecord(CONFIG, history, 1, {}, 0, 0, 0)
    assert json.loads(record.as_json())["history"] == [["what is it?", "A bell."]]


@pytest.mark.parametrize("last", [DONE, Failed(EngineFailure("no"))])
def test_audio_of_turns_without_an_answer_is_to_be_sent_again(last: GenerationEvent) -> None:
    here = new_session(barge_in=False, reopen_ms=0)
    hear(here, (0.0, 10))
    assert here.record().audio_bytes == 10 * 1024
    hear(here, (0.9, 20), (0.0, 16))
    ended_bytes = here.listening.audio_bytes_received
    assert here.record().audio_bytes == 10 * 1024
    hear(here, (0.9, 20))
    answer(here, "1", "Yes.", last)
    # The second turn is still open: only the first is settled.
    assert here.record().audio_bytes <= ended_bytes
    assert here.record().audio_bytes > 30 * 1024
    assert moved(here).listening.audio_bytes_received == here.record().audio_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"version": 2}',
        SessionRecord(CONFIG, (), 0, {}, 0, 0, 0).as_json().replace('"de"', '"klingon"'),
        SessionRecord(CONFIG, (), 0, {}, 0, 0, 0)
        .as_json()
        .replace('"history": []', '"history": 1'),
        SessionRecord(CONFIG, (), 0, {}, 0, 0, 0).as_json().replace("[]", "[[1]]"),
        b"\xff",
    ],
)
def test_a_record_that_cannot_be_used_is_told_apart(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        read_record(text)


def test_a_record_has_the_latest_exchanges_of_a_history_that_is_too_long() -> None:
    session = new_session()
    history = [
        Exchange(UserTurn((f"{number} " + "\U0001f600" * 5000,)), AssistantTurn(text=str(number)))
        for number in range(40)
    ]
    session.answers.history.extend(history)
    text = session.record().as_json()
    assert len(text.encode()) < MAX_HISTORY_BYTES + 2048
    kept = read_record(text).history
    assert 0 < len(kept) < 40
    assert kept == tuple(history[-len(kept) :])


@pytest.mark.parametrize("value", ["1e999", "[" * 100_000])
def test_a_record_that_no_reader_can_hold_is_refused(value: str) -> None:
    text = new_session().record().as_json().replace('"turns": 0', f'"turns": {value}')
    with pytest.raises(ValueError, match="not the record|Expecting"):
        read_record(text)


def test_a_session_keeps_its_owner_and_one_without_has_none() -> None:
    here = new_session()
    assert moved(here).owner is None
    here.owner = "alice"
    assert moved(moved(here)).owner == "alice"


def test_a_record_whose_owner_is_no_text_cannot_be_used() -> None:
    fields = json.loads(new_session().record().as_json())
    with pytest.raises(ValueError, match="not the record"):
        read_record(json.dumps({**fields, "owner": 7}))
    # As those of before sessions had owners.
    del fields["owner"]
    assert read_record(json.dumps(fields)).owner is None
