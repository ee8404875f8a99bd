import json

from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_worker.server.native.messages import Message
from voxtral_worker.server.native.numbering import HELD_MESSAGES, MAX_AHEAD, Numbering

numbered = Message("text_delta", is_numbered=True)
plain = Message("pong")


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 70))
@settings(max_examples=80, deadline=None)
def test_after_a_number_come_exactly_the_messages_that_were_missed(
    kinds: list[bool], last_seq: int
) -> None:
    numbering = Numbering()
    written = [
        numbering.write(numbered if kind else plain, float(i)) for i, kind in enumerate(kinds)
    ]
    sent = [text for text, kind in zip(written, kinds, strict=True) if kind]
    assert numbering.after(last_seq) == (sent[last_seq:], 0)


@given(st.lists(st.booleans(), max_size=60))
@settings(max_examples=80, deadline=None)
def test_seq_rises_by_exactly_one_and_only_for_messages_of_the_conversation(
    kinds: list[bool],
) -> None:
    numbering = Numbering()
    messages = [json.loads(numbering.write(numbered if kind else plain, 1.5)) for kind in kinds]
    assert ["seq" in message for message in messages] == kinds
    assert [m["seq"] for m in messages if "seq" in m] == list(range(1, sum(kinds) + 1))
    assert numbering.seq == sum(kinds)
    assert all(message["timestamp"] == 1.5 for message in messages)


def test_messages_no_longer_held_are_counted_as_missed() -> None:
    numbering = Numbering()
    sent = [numbering.write(numbered, float(i)) for i in range(HELD_MESSAGES + 5)]
    assert HELD_MESSAGES >= 256
    assert numbering.after(0) == (sent[5:], 5)
    assert numbering.after(3) == (sent[5:], 2)
    assert numbering.after(5) == (sent[5:], 0)
    assert numbering.after(len(sent) - 1) == (sent[-1:], 0)


def test_a_number_from_the_future_has_missed_nothing() -> None:
    numbering = Numbering()
    numbering.write(numbered, 0.0)
    assert numbering.after(99) == ([], 0)


def test_a_channel_from_elsewhere_goes_on_where_its_client_is_if_that_is_further() -> None:
    numbering = Numbering(3)
    numbering.catch_up(2)
    assert numbering.seq == 3
    numbering.catch_up(5)
    assert numbering.seq == 5
    assert numbering.after(5) == ([], 0)
    numbering.write(numbered, 0.0)
    numbering.catch_up(50)
    assert numbering.seq == 6
    assert numbering.after(3)[1] == 2


def test_a_new_channel_believes_no_client() -> None:
    numbering = Numbering()
    numbering.catch_up(50)
    assert numbering.seq == 0


def test_a_channel_from_elsewhere_believes_no_number_far_beyond_its_own() -> None:
    numbering = Numbering(3)
    numbering.catch_up(2**53)
    assert numbering.seq == 3 + MAX_AHEAD
