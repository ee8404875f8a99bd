import pytest

from voxtral_worker.engine.conversation import UserTurn
from voxtral_worker.errors import RateLimited
from voxtral_worker.sessions.response import Response
from voxtral_worker.sessions.turn import Turn
from voxtral_worker.sessions.turn_queue import MAX_WAITING, TurnQueue


def added(queue: TurnQueue, audio_bytes: int = 0) -> Turn:
    turn_id = queue.new_id()
    turn = Turn(
        turn_id, None, UserTurn(("Hi",)), Response(turn_id, 0.0, 0.0), audio_bytes=audio_bytes
    )
    queue.add(turn)
    return turn


def test_turns_become_current_one_at_a_time_in_their_order() -> None:
    queue = TurnQueue()
    first, second = added(queue), added(queue)
    assert queue.next() is first
    assert queue.next() is None, "the first is not over"
    assert list(queue) == [first, second]
    queue.remove(first)
    assert queue.next() is second
    queue.remove(second)
    assert queue.next() is None
    assert not queue


def test_a_turn_may_leave_before_its_turn_comes() -> None:
    queue = TurnQueue()
    first, second, third = added(queue), added(queue), added(queue)
    queue.next()
    queue.remove(second)
    assert queue.find(second.turn_id) is None
    assert queue.current is first
    assert queue.waiting == (third,)


def test_audio_is_settled_up_to_the_last_turn_that_is_over() -> None:
    queue = TurnQueue()
    first, text, last = added(queue, 1000), added(queue), added(queue, 5000)
    for turn, settled in ((first, 1000), (text, 1000), (last, 5000)):
        queue.next()
        queue.remove(turn)
        assert queue.settled_bytes == settled
    queue.unsettle(3000)
    assert queue.settled_bytes == 3000


def test_the_current_turn_takes_no_place_of_those_that_wait() -> None:
    queue = TurnQueue()
    for _ in range(MAX_WAITING):
        queue.require_room()
        added(queue)
    with pytest.raises(RateLimited):
        queue.require_room()
    queue.next()
    queue.require_room()
    assert len(queue) == MAX_WAITING


def test_ids_are_not_given_again_after_a_clear() -> None:
    queue = TurnQueue()
    added(queue)
    queue.next()
    added(queue)
    queue.clear()
    assert (len(queue), queue.bytes) == (0, 0)
    assert queue.new_id() == "3"
