from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_worker.engine.request import Urgency
from voxtral_worker.engine.scheduler import Scheduler


@dataclass(eq=False)
class FakeSequence:
    urgency: int = 0
    needs_prefill: bool = True


def test_sequences_take_free_places_in_order_of_arrival() -> None:
    scheduler = Scheduler[FakeSequence](2)
    a, b, c = FakeSequence(), FakeSequence(), FakeSequence()
    for sequence in (a, b, c):
        scheduler.add(sequence)
    assert scheduler.admit() == [a, b]
    assert scheduler.waiting == 1
    assert scheduler.admit() == []
    scheduler.release(a)
    assert scheduler.admit() == [c]
    assert scheduler.running == [b, c]


def test_a_more_urgent_sequence_goes_before_those_that_came_earlier() -> None:
    scheduler = Scheduler[FakeSequence](3)
    partial, job, turn = (FakeSequence(u) for u in (Urgency.PARTIAL, Urgency.JOB, Urgency.TURN))
    for sequence in (partial, job, turn):
        scheduler.add(sequence)
    assert scheduler.everyone() == [turn, job, partial]
    assert scheduler.admit() == [turn, job]


def test_a_speculation_waits_while_a_prompt_is_computed_and_lets_others_past() -> None:
    scheduler = Scheduler[FakeSequence](8)
    turn, guess, job = (FakeSequence(u) for u in (Urgency.TURN, Urgency.SPECULATION, Urgency.JOB))
    for sequence in (turn, guess, job):
        scheduler.add(sequence)
    assert scheduler.admit() == [turn, job]
    turn.needs_prefill = False
    assert scheduler.admit() == []
    job.needs_prefill = False
    assert scheduler.admit() == [guess]


def test_a_speculation_leaves_half_of_the_places_free() -> None:
    scheduler = Scheduler[FakeSequence](4)
    for _ in range(2):
        scheduler.add(FakeSequence(Urgency.JOB, needs_prefill=False))
    scheduler.admit()
    scheduler.add(FakeSequence(Urgency.SPECULATION))
    assert scheduler.admit() == []


def test_a_speculation_that_is_committed_while_it_waits_is_a_turn() -> None:
    scheduler = Scheduler[FakeSequence](2)
    guess = FakeSequence(Urgency.SPECULATION)
    scheduler.add(FakeSequence(Urgency.TURN))
    scheduler.add(guess)
    assert len(scheduler.admit()) == 1
    guess.urgency = Urgency.TURN
    assert scheduler.admit() == [guess]


def test_the_last_place_is_kept_for_the_most_urgent() -> None:
    scheduler = Scheduler[FakeSequence](2)
    jobs = [FakeSequence(2), FakeSequence(2)]
    for job in jobs:
        scheduler.add(job)
    assert scheduler.admit() == jobs[:1]
    turn = FakeSequence(0)
    scheduler.add(turn)
    assert scheduler.admit() == [turn]


def test_a_house_of_one_place_serves_everybody() -> None:
    scheduler = Scheduler[FakeSequence](1)
    job = FakeSequence(2)
    scheduler.add(job)
    assert scheduler.admit() == [job]


def test_the_most_urgent_prompt_goes_on_next_and_then_the_oldest() -> None:
    scheduler = Scheduler[FakeSequence](4)
    assert scheduler.prefilling() == []
    job, first, second = FakeSequence(2), FakeSequence(0), FakeSequence(0)
    for sequence in (job, first, second):
        scheduler.add(sequence)
    scheduler.admit()
    assert scheduler.prefilling() == [first, second, job]
    first.needs_prefill = False
    assert scheduler.prefilling() == [second, job]


def test_a_head_that_cannot_be_placed_is_not_overtaken() -> None:
    large, small = FakeSequence(), FakeSequence()
    has_room = False
    scheduler = Scheduler[FakeSequence](4, lambda sequence: has_room or sequence is small)
    scheduler.add(large)
    scheduler.add(small)
    assert scheduler.admit() == []
    has_room = True
    assert scheduler.admit() == [large, small]


def test_what_runs_and_has_its_prompt_makes_a_token_at_each_step() -> None:
    scheduler = Scheduler[FakeSequence](4)
    ready, new = FakeSequence(needs_prefill=False), FakeSequence()
    scheduler.add(new)
    scheduler.add(ready)
    assert scheduler.decoding() == []
    scheduler.admit()
    assert scheduler.decoding() == [ready]


def test_a_waiting_sequence_that_is_released_never_runs() -> None:
    scheduler = Scheduler[FakeSequence](1)
    running, gone, stays = FakeSequence(), FakeSequence(), FakeSequence()
    for sequence in (running, gone, stays):
        scheduler.add(sequence)
    scheduler.admit()
    scheduler.release(gone)
    assert scheduler.everyone() == [running, stays]
    scheduler.release(running)
    assert scheduler.admit() == [stays]


def test_those_that_stay_keep_their_order_when_others_are_released() -> None:
    scheduler = Scheduler[FakeSequence](20)
    sequences = [FakeSequence(urgency) for urgency in (2, 2, 3, 2, 0, 3, 0, 3, 2, 0)]
    for sequence in sequences:
        scheduler.add(sequence)
    stay = [s for i, s in enumerate(sequences) if i not in (4, 6)]
    scheduler.release(sequences[4])
    scheduler.release(sequences[6])
    assert scheduler.admit() == sorted(stay, key=lambda s: s.urgency)


moves = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 3)),
        st.tuples(st.just("release"), st.integers(0, 20)),
        st.tuples(st.just("admit"), st.just(0)),
    ),
    max_size=50,
)


@given(moves, st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_a_sequence_waits_or_runs_or_is_gone_and_no_more_run_than_there_are_places(
    done: list[tuple[str, int]], places: int
) -> None:
    scheduler = Scheduler[FakeSequence](places)
    here: list[FakeSequence] = []
    for move, number in done:
        match move:
            case "add":
                here.append(FakeSequence(number))
                scheduler.add(here[-1])
            case "release" if here:
                scheduler.release(here.pop(number % len(here)))
            case "admit":
                running = list(scheduler.running)
                queue = sorted((s for s in here if s not in running), key=lambda s: s.urgency)
                admitted = scheduler.admit()
                firm = [s for s in queue if s.urgency != Urgency.SPECULATION]
                placed = [s for s in admitted if s.urgency != Urgency.SPECULATION]
                assert placed == firm[: len(placed)]
                assert scheduler.running == running + admitted
                less_urgent = sum(s.urgency > 0 for s in scheduler.running)
                assert less_urgent <= max(1, places - 1)
        assert len(scheduler.running) <= places
        everyone = scheduler.everyone()
        assert len(everyone) == len(here) == len(scheduler.running) + scheduler.waiting
        assert set(map(id, everyone)) == set(map(id, here))
