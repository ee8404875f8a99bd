"""What a client sends again after a lost connection."""

from typing import Any

import pytest

from voxtral_worker.client import VoxtralError, journal
from voxtral_worker.client.journal import Journal

END_TURN = {"type": "control", "control_type": "end_turn"}
CANCEL = {"type": "control", "control_type": "cancel"}
UPDATE = {"type": "config_update", "config": {"silence_ms": 300}}


def text(request_id: str) -> dict[str, Any]:
    return {"type": "text_input", "text": "hello", "request_id": request_id}


def kept(*sent: bytes | dict[str, Any]) -> Journal:
    held = Journal()
    for each in sent:
        if isinstance(each, bytes):
            held.add_audio(each)
        else:
            held.add_message(each, is_sent=True)
    return held


def kinds(frames: list[bytes | str]) -> list[bytes | str]:
    """The frames, with a word for each message."""
    words = ("end_turn", "cancel", "config_update", '"a"', '"b"')
    return [
        frame
        if isinstance(frame, bytes)
        else next(word.strip('"') for word in words if word in frame)
        for frame in frames
    ]


def test_audio_and_messages_are_sent_again_in_their_order_and_in_their_frames() -> None:
    held = kept(b"11", text("a"), b"22", b"33", END_TURN, b"44", CANCEL)
    assert kinds(held.missing(2)) == ["a", b"22", b"33", "end_turn", b"44", "cancel"]
    assert kinds(held.missing(5)) == ["a", b"3", "end_turn", b"44", "cancel"]


def test_a_message_before_audio_that_was_taken_is_not_sent_again() -> None:
    held = kept(b"11", UPDATE, b"22", END_TURN)
    assert kinds(held.missing(4)) == ["end_turn"]


def test_a_text_is_sent_again_until_something_of_it_came_back() -> None:
    held = kept(text("a"), b"11", text("b"))
    assert kinds(held.missing(2)) == ["a", "b"]
    held.take({"type": "status", "status": "processing", "turn_id": "1", "request_id": "a"})
    assert kinds(held.missing(2)) == ["b"]
    held.take({"type": "error", "code": "RATE_LIMITED", "error": "no", "request_id": "b"})
    assert held.missing(2) == []


def test_what_was_taken_before_a_message_that_is_answered_is_not_sent_again() -> None:
    held = kept(CANCEL, END_TURN, text("a"), UPDATE)
    held.take({"type": "status", "status": "processing", "turn_id": "1", "request_id": "a"})
    assert kinds(held.missing(0)) == ["config_update"]
    held.take({"type": "status", "status": "config_updated", "config": {}})
    assert held.missing(0) == []


def test_an_error_that_overtakes_what_was_sent_before_answers_its_own_text_alone() -> None:
    held = kept(CANCEL, text("a"), text("b"))
    held.take({"type": "error", "code": "RATE_LIMITED", "error": "no", "request_id": "b"})
    assert kinds(held.missing(0)) == ["cancel", "a"]


def test_each_cancel_is_answered_by_its_own_word() -> None:
    held = kept(CANCEL, CANCEL)
    held.take({"type": "status", "status": "cancelled", "turn_id": "1"})
    assert kinds(held.missing(0)) == ["cancel"]


def test_two_texts_under_way_cannot_have_one_name() -> None:
    held = kept(text("a"))
    with pytest.raises(VoxtralError, match="'a' is in use"):
        held.add_message(text("a"), is_sent=True)


def test_only_texts_that_were_sent_are_given_up() -> None:
    held = kept(text("a"), CANCEL)
    held.add_message(text("b"), is_sent=False)
    assert held.give_up_texts() == ["a"]
    assert kinds(held.missing(0)) == ["cancel", "b"]
    assert held.give_up_texts() == ["b"]


def test_a_journal_is_bounded_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MOST_HELD_BYTES", 5)
    monkeypatch.setattr(journal, "MOST_HELD_MESSAGES", 1)
    held = kept(b"11", b"22", b"33", END_TURN, CANCEL, text("a"))
    assert kinds(held.missing(2)) == [b"22", b"33", "cancel", "a"]
    with pytest.raises(VoxtralError, match="more audio was lost"):
        held.missing(1)
    with pytest.raises(VoxtralError, match="1 texts wait"):
        held.add_message(text("b"), is_sent=True)
