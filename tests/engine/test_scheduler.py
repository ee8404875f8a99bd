from collections import Counter
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_worker.engine.kv_cache import BLOCK_TOKENS, KvCache
from voxtral_worker.engine.request import Urgency
from voxtral_worker.engine.scheduler import MOST_TIMES_PUT_BACK, Scheduler


@dataclass(eq=False)
class FakeSequence:
    urgency: int = 0
    needs_prefill: bool = True
    blocks_needed: int = 1


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


def scheduler_of(
    places: int, blocks: int, *sequences: FakeSequence
) -> tuple[Scheduler[FakeSequence], list[FakeSequence]]:
    """A scheduler that has admitted what it can of these, and a list of who is put back."""
    put_back: list[FakeSequence] = []
    scheduler = Scheduler[FakeSequence](places, blocks, put_back=put_back.append)
    for sequence in sequences:
        scheduler.add(sequence)
    scheduler.admit()
    return scheduler, put_back


def test_jobs_and_partials_hold_at_most_half_of_the_blocks() -> None:
    job, partial, more = (FakeSequence(u, blocks_needed=3) for u in (2, 3, 2))
    scheduler, _ = scheduler_of(8, 12, job, partial, more)
    assert scheduler.running == [job, more]
    turns = [FakeSequence(blocks_needed=3), FakeSequence(blocks_needed=3)]
    for turn in turns:
        scheduler.add(turn)
    assert scheduler.admit() == turns
    scheduler.release(job)
    assert scheduler.admit() == [partial]


def test_what_needs_more_than_its_share_can_never_run() -> None:
    scheduler = Scheduler[FakeSequence](8, 12)
    for urgency, most in ((Urgency.TURN, 12), (Urgency.JOB, 6)):
        assert scheduler.can_ever_run(FakeSequence(urgency, blocks_needed=most))
        assert not scheduler.can_ever_run(FakeSequence(urgency, blocks_needed=most + 1))


def test_a_turn_that_finds_no_blocks_puts_back_the_youngest_jobs_it_needs() -> None:
    old, middle, young = (FakeSequence(Urgency.JOB, blocks_needed=2) for _ in range(3))
    scheduler, put_back = scheduler_of(8, 12, old, middle, young)
    turn = FakeSequence(blocks_needed=9)
    scheduler.add(turn)
    assert scheduler.admit() == [turn]
    assert put_back == [young, middle]
    assert scheduler.running == [old, turn]
    scheduler.release(turn)
    assert scheduler.admit() == [middle, young]


def test_a_turn_that_finds_no_place_puts_back_the_youngest_job() -> None:
    old, young, turn, late = (FakeSequence(u) for u in (2, 2, 0, 0))
    scheduler, put_back = scheduler_of(3, 12, old, young, turn)
    assert scheduler.running == [turn, old]
    scheduler.add(late)
    # The one place that jobs leave free is taken: there are two turns.
    assert scheduler.admit() == [late]
    assert put_back == []
    scheduler.add(third := FakeSequence())
    assert scheduler.admit() == [third]
    assert put_back == [old]


def test_nobody_is_put_back_in_vain() -> None:
    job, turn = FakeSequence(Urgency.JOB, blocks_needed=2), FakeSequence(blocks_needed=8)
    scheduler, put_back = scheduler_of(8, 12, job, turn)
    scheduler.add(FakeSequence(blocks_needed=5))
    assert scheduler.admit() == []
    assert put_back == []
    assert scheduler.running == [turn, job]


def test_a_job_that_was_put_back_often_enough_stays() -> None:
    job = FakeSequence(Urgency.JOB, blocks_needed=6)
    scheduler, put_back = scheduler_of(8, 12, job)
    for _ in range(MOST_TIMES_PUT_BACK):
        turn = FakeSequence(blocks_needed=12)
        scheduler.add(turn)
        assert scheduler.admit() == [turn]
        scheduler.release(turn)
        assert scheduler.admit() == [job]
    scheduler.add(FakeSequence(blocks_needed=12))
    assert scheduler.admit() == []
    assert put_back == [job] * MOST_TIMES_PUT_BACK


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
    first, large, small = (FakeSequence(blocks_needed=n) for n in (4, 9, 1))
    scheduler, _ = scheduler_of(4, 10, first, large, small)
    assert scheduler.running == [first]
    scheduler.release(first)
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


@given(moves, st.integers(1, 4), st.integers(8, 20))
@settings(max_examples=200, deadline=None)
def test_a_sequence_waits_or_runs_or_is_gone_and_no_more_run_than_there_are_places(
    done: list[tuple[str, int]], places: int, blocks: int
) -> None:
    cache = KvCache(blocks)
    held: dict[int, tuple[int, ...]] = {}
    put_back: Counter[int] = Counter()

    def place(sequence: FakeSequence) -> None:
        keys = range(sequence.blocks_needed * BLOCK_TOKENS)
        admission = cache.admit(None, keys, len(keys))
        assert admission is not None, "the cache has what the scheduler counts on"
        held[id(sequence)] = admission.blocks

    def take_back(sequence: FakeSequence) -> None:
        assert sequence.urgency >= Urgency.JOB
        put_back[id(sequence)] += 1
        assert put_back[id(sequence)] <= MOST_TIMES_PUT_BACK
        cache.release(None, held.pop(id(sequence)))

    scheduler = Scheduler[FakeSequence](places, blocks, place, take_back)
    here: list[FakeSequence] = []
    for number_of_move, (move, number) in enumerate(done):
        match move:
            case "add":
                here.append(FakeSequence(number, blocks_needed=1 + number_of_move % 6))
                if not scheduler.can_ever_run(here[-1]):
                    here.pop()
                    continue
                scheduler.add(here[-1])
            case "release" if here:
                gone = here.pop(number % len(here))
                scheduler.release(gone)
                cache.release(None, held.pop(id(gone), ()))
                # Its number may be another's soon.
                del put_back[id(gone)]
            case "admit":
                running = list(scheduler.running)
                queue = sorted((s for s in here if s not in running), key=lambda s: s.urgency)
                admitted = scheduler.admit()
                firm = [s for s in queue if s.urgency != Urgency.SPECULATION]
                placed = [s for s in admitted if s.urgency != Urgency.SPECULATION]
                assert placed == firm[: len(placed)]
                stayed = [s for s in running if id(s) in held]
                assert scheduler.running == stayed + admitted
                if len(stayed) < len(running):
                    assert any(s.urgency == Urgency.TURN for s in admitted)
                less_urgent = sum(s.urgency > 0 for s in scheduler.running)
                assert less_urgent <= max(1, places - 1)
        background = sum(s.blocks_needed for s in scheduler.running if s.urgency >= Urgency.JOB)
        assert background <= blocks // 2
        assert cache.free == blocks - sum(s.blocks_needed for s in scheduler.running)
        assert len(scheduler.running) <= places
        everyone = scheduler.everyone()
        assert len(everyone) == len(here) == len(scheduler.running) + scheduler.waiting
        assert set(map(id, everyone)) == set(map(id, here))
