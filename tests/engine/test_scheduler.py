import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.kv_cache import BLOCK_TOKENS, KvCache
from voxtral_worker.engine.plan import Chunk
from voxtral_worker.engine.prompt import Prompt
from voxtral_worker.engine.request import Urgency
from voxtral_worker.engine.scheduler import MOST_TIMES_PUT_BACK, Scheduler
from voxtral_worker.engine.sequence import Sequence

AUDIO = 9
_ids = itertools.count(1)


def sequence(
    urgency: Urgency = Urgency.TURN,
    *,
    blocks: int = 1,
    prompt: int = 1,
    owner: str | None = None,
    first: int = 1000,
) -> Sequence:
    """One that takes so many blocks; its prompt has so many tokens, from the id `first` on."""
    ids = tuple(range(first, first + prompt))
    most = blocks * BLOCK_TOKENS - prompt
    return Sequence(next(_ids), Prompt(ids, ()), most, urgency=urgency, owner=owner)


def scheduler_of(
    places: int, blocks: int = 1000, *sequences: Sequence
) -> tuple[Scheduler, list[Sequence]]:
    """A scheduler that has admitted what it can of these, and a list of who is put back."""
    scheduler, put_back = Scheduler(KvCache(blocks), places), list[Sequence]()
    add(scheduler, *sequences)
    admit(scheduler, put_back)
    return scheduler, put_back


def add(scheduler: Scheduler, *sequences: Sequence) -> None:
    for each in sequences:
        scheduler.add(each)


def admit(scheduler: Scheduler, put_back: list[Sequence] | None = None) -> list[Sequence]:
    moved = scheduler.admit(1.0)
    if put_back is not None:
        put_back += moved.put_back
    return moved.admitted


def compute(*sequences: Sequence) -> None:
    """Their prompts are computed."""
    for each in sequences:
        each.stored = each.vouched = each.prefill_tokens


def planned(scheduler: Scheduler, encoded: tuple[Audio, ...] = ()) -> list[Sequence]:
    return [chunk.sequence for chunk in scheduler.plan(encoded)]


def test_sequences_take_free_places_in_order_of_arrival() -> None:
    a, b, c = sequence(), sequence(), sequence()
    scheduler = Scheduler(KvCache(10), 2)
    add(scheduler, a, b, c)
    assert admit(scheduler) == [a, b]
    assert scheduler.waiting == 1
    assert admit(scheduler) == []
    scheduler.release(a)
    assert admit(scheduler) == [c]
    assert scheduler.running == [b, c]


def test_a_more_urgent_sequence_goes_before_those_that_came_earlier() -> None:
    scheduler = Scheduler(KvCache(10), 3)
    partial, job, turn = (sequence(u) for u in (Urgency.PARTIAL, Urgency.JOB, Urgency.TURN))
    add(scheduler, partial, job, turn)
    assert scheduler.everyone() == [turn, job, partial]
    assert admit(scheduler) == [turn, job]


def test_a_speculation_waits_while_a_prompt_is_computed_and_lets_others_past() -> None:
    scheduler = Scheduler(KvCache(10), 8)
    turn, guess, job = (sequence(u) for u in (Urgency.TURN, Urgency.SPECULATION, Urgency.JOB))
    add(scheduler, turn, guess, job)
    assert admit(scheduler) == [turn, job]
    compute(turn)
    assert admit(scheduler) == []
    compute(job)
    assert admit(scheduler) == [guess]


def test_a_speculation_leaves_half_of_the_places_free() -> None:
    jobs = [sequence(Urgency.JOB), sequence(Urgency.JOB)]
    scheduler, _ = scheduler_of(4, 10, *jobs)
    compute(*jobs)
    add(scheduler, sequence(Urgency.SPECULATION))
    assert admit(scheduler) == []


def test_a_speculation_that_is_committed_while_it_waits_is_a_turn() -> None:
    scheduler = Scheduler(KvCache(10), 2)
    guess = sequence(Urgency.SPECULATION)
    add(scheduler, sequence(), guess)
    assert len(admit(scheduler)) == 1
    guess.urgency = Urgency.TURN
    assert admit(scheduler) == [guess]


def test_jobs_and_partials_hold_at_most_half_of_the_blocks() -> None:
    job, partial, more = (
        sequence(u, blocks=3) for u in (Urgency.JOB, Urgency.TRANSCRIPT, Urgency.JOB)
    )
    scheduler, _ = scheduler_of(8, 12, job, partial, more)
    assert scheduler.running == [job, more]
    turns = [sequence(blocks=3), sequence(blocks=3)]
    add(scheduler, *turns)
    assert admit(scheduler) == turns
    scheduler.release(job)
    assert admit(scheduler) == [partial]


def test_what_needs_more_than_its_share_is_refused() -> None:
    for urgency, most in ((Urgency.TURN, 12), (Urgency.JOB, 6)):
        scheduler = Scheduler(KvCache(12), 8)
        assert scheduler.most_tokens(urgency) == most * BLOCK_TOKENS
        with pytest.raises(ValueError, match=f"cannot hold {(most + 1) * BLOCK_TOKENS} tokens"):
            scheduler.add(sequence(urgency, blocks=most + 1))
        fits = sequence(urgency, blocks=most)
        add(scheduler, fits)
        assert admit(scheduler) == [fits]


def test_a_turn_that_finds_no_blocks_puts_back_the_youngest_jobs_it_needs() -> None:
    old, middle, young = (sequence(Urgency.JOB, blocks=2) for _ in range(3))
    scheduler, put_back = scheduler_of(8, 12, old, middle, young)
    turn = sequence(blocks=9)
    add(scheduler, turn)
    assert admit(scheduler, put_back) == [turn]
    assert put_back == [young, middle]
    assert scheduler.running == [old, turn]
    scheduler.release(turn)
    assert admit(scheduler) == [middle, young]


def test_a_turn_that_finds_no_place_puts_back_the_youngest_job() -> None:
    old, young, turn, late = (
        sequence(u) for u in (Urgency.JOB, Urgency.JOB, Urgency.TURN, Urgency.TURN)
    )
    scheduler, put_back = scheduler_of(3, 12, old, young, turn)
    assert scheduler.running == [turn, old]
    add(scheduler, late)
    # The one place that jobs leave free is taken: there are two turns.
    assert admit(scheduler, put_back) == [late]
    assert put_back == []
    third = sequence()
    add(scheduler, third)
    assert admit(scheduler, put_back) == [third]
    assert put_back == [old]


def test_nobody_is_put_back_in_vain() -> None:
    job, turn = sequence(Urgency.JOB, blocks=2), sequence(blocks=8)
    scheduler, put_back = scheduler_of(8, 12, job, turn)
    add(scheduler, sequence(blocks=5))
    assert admit(scheduler, put_back) == []
    assert put_back == []
    assert scheduler.running == [turn, job]


def test_a_job_that_was_put_back_often_enough_stays() -> None:
    job = sequence(Urgency.JOB, blocks=6)
    scheduler, put_back = scheduler_of(8, 12, job)
    for _ in range(MOST_TIMES_PUT_BACK):
        turn = sequence(blocks=12)
        add(scheduler, turn)
        assert admit(scheduler, put_back) == [turn]
        scheduler.release(turn)
        assert admit(scheduler, put_back) == [job]
    add(scheduler, sequence(blocks=12))
    assert admit(scheduler, put_back) == []
    assert put_back == [job] * MOST_TIMES_PUT_BACK


def test_one_that_was_put_back_keeps_its_answer_and_the_time_of_its_first_admission() -> None:
    job = sequence(Urgency.JOB, blocks=6, prompt=20)
    scheduler = Scheduler(KvCache(12), 8)
    add(scheduler, job)
    scheduler.admit(1.0)
    compute(job)
    job.token_ids += [7, 8, 9]
    turn = sequence(blocks=12)
    add(scheduler, turn)
    scheduler.admit(2.0)
    assert (job.blocks, job.stored, turn.admitted_s) == ((), 0, 2.0)
    scheduler.release(turn)
    scheduler.admit(3.0)
    # The prompt and what it had answered are computed once more.
    assert scheduler.plan(()) == [Chunk(job, 0, 23)]
    assert (job.token_ids, job.admitted_s) == ([7, 8, 9], 1.0)


def test_the_last_place_is_kept_for_the_most_urgent() -> None:
    jobs = [sequence(Urgency.JOB), sequence(Urgency.JOB)]
    scheduler = Scheduler(KvCache(10), 2)
    add(scheduler, *jobs)
    assert admit(scheduler) == jobs[:1]
    turn = sequence()
    add(scheduler, turn)
    assert admit(scheduler) == [turn]


def test_a_house_of_one_place_serves_everybody() -> None:
    scheduler = Scheduler(KvCache(10), 1)
    job = sequence(Urgency.JOB)
    add(scheduler, job)
    assert admit(scheduler) == [job]


def test_the_most_urgent_prompt_goes_on_next_and_then_the_oldest() -> None:
    scheduler = Scheduler(KvCache(100), 4)
    assert scheduler.plan(()) == []
    job, first, second = sequence(Urgency.JOB, prompt=9), sequence(prompt=8), sequence(prompt=7)
    add(scheduler, job, first, second)
    admit(scheduler)
    assert planned(scheduler) == [first, second, job]
    compute(first)
    assert planned(scheduler)[1:] == [second, job]


def test_a_head_that_cannot_be_placed_is_not_overtaken() -> None:
    first, large, small = (sequence(blocks=n) for n in (4, 9, 1))
    scheduler, _ = scheduler_of(4, 10, first, large, small)
    assert scheduler.running == [first]
    scheduler.release(first)
    assert admit(scheduler) == [large, small]


def test_what_runs_and_has_its_prompt_makes_a_token_at_each_step() -> None:
    scheduler = Scheduler(KvCache(10), 4)
    ready, new = sequence(prompt=6), sequence(prompt=5)
    add(scheduler, ready, new)
    assert scheduler.plan(()) == []
    admit(scheduler)
    compute(ready)
    decode, prefill = scheduler.plan(())
    assert (decode, decode.is_decode, decode.wants_logits) == (Chunk(ready, 6, 7), True, True)
    assert (prefill, prefill.is_decode, prefill.wants_logits) == (Chunk(new, 0, 5), False, True)


def test_decodes_come_first_and_the_shorter_before_the_longer() -> None:
    long, new, short = sequence(blocks=9, prompt=99), sequence(), sequence(prompt=3)
    scheduler, _ = scheduler_of(4, 100, long, new, short)
    compute(long, short)
    assert planned(scheduler) == [short, long, new]


def test_a_step_takes_prompts_in_parts_and_a_quarter_of_it_for_whom_nobody_waits() -> None:
    turn, job = sequence(blocks=20, prompt=300), sequence(Urgency.JOB, blocks=20, prompt=300)
    scheduler, _ = scheduler_of(4, 100, turn, job)
    scheduler.most_rows = 200
    first = scheduler.plan(())
    assert first == [Chunk(turn, 0, 200)]
    assert not first[0].wants_logits
    turn.stored = 200
    assert scheduler.plan(()) == [Chunk(turn, 200, 300), Chunk(job, 0, 50)]
    compute(turn)
    # A turn that decodes still counts as a turn that waits.
    assert scheduler.plan(()) == [Chunk(turn, 300, 301), Chunk(job, 0, 50)]
    scheduler.release(turn)
    assert scheduler.plan(()) == [Chunk(job, 0, 200)]


def spoken(audio: Audio, urgency: Urgency = Urgency.TURN) -> Sequence:
    """A prompt of 377 tokens of which 375 are a window of sound."""
    prompt = Prompt((1, *[AUDIO] * 375, 2), (audio,), audio_token_id=AUDIO)
    return Sequence(next(_ids), prompt, 7, urgency=urgency)


def test_a_prompt_waits_for_its_sound_and_the_most_urgent_sound_is_encoded_first() -> None:
    first, second = (Audio(np.zeros(1600, np.float32)) for _ in range(2))
    job, turn, text = spoken(first, Urgency.JOB), spoken(second), sequence()
    scheduler, _ = scheduler_of(8, 100, job, turn, text)
    assert scheduler.pieces_to_encode(()) == [second, first]
    assert planned(scheduler) == [text]
    assert scheduler.pieces_to_encode((second,)) == [first]
    assert planned(scheduler, (second,)) == [turn, text]
    compute(turn)
    # What is stored needs no embeddings any more.
    assert scheduler.pieces_to_encode(()) == [first]
    assert turn in planned(scheduler)


def test_the_next_turn_of_an_owner_finds_what_is_vouched_for() -> None:
    turn = sequence(blocks=4, prompt=30, owner="a")
    scheduler, _ = scheduler_of(4, 8, turn)
    turn.stored, turn.vouched = 30, 25
    assert scheduler.release(turn) == 25
    assert (turn.blocks, scheduler.cache.kept, scheduler.cache.free) == ((), 2, 6)
    again, other = (sequence(blocks=2, prompt=30, owner=name) for name in "ab")
    add(scheduler, again, other)
    assert admit(scheduler) == [again, other]
    assert (again.cached_tokens, again.stored, other.cached_tokens) == (25, 25, 0)
    assert scheduler.plan(()) == [Chunk(again, 25, 30), Chunk(other, 0, 30)]


def test_blocks_of_quiet_owners_go_to_those_who_speak() -> None:
    quiet = sequence(blocks=4, prompt=30, owner="quiet")
    scheduler, _ = scheduler_of(4, 4, quiet)
    compute(quiet)
    scheduler.release(quiet)
    assert scheduler.cache.kept == 2
    add(scheduler, speaks := sequence(blocks=4))
    assert admit(scheduler) == [speaks]
    assert (scheduler.cache.kept, scheduler.cache.free) == (0, 0)


def test_of_an_owner_that_is_forgotten_nothing_is_kept() -> None:
    kept, runs, other = (sequence(prompt=9, owner=name) for name in "aab")
    scheduler, _ = scheduler_of(4, 8, kept)
    compute(kept)
    scheduler.release(kept)
    add(scheduler, runs, other)
    admit(scheduler)
    scheduler.forget("a")
    compute(runs, other)
    assert (runs.owner, other.owner) == (None, "b")
    assert (scheduler.release(runs), scheduler.release(other)) == (None, 9)
    assert scheduler.cache.kept == 1


def test_a_waiting_sequence_that_is_released_never_runs() -> None:
    running, gone, stays = sequence(), sequence(owner="a"), sequence()
    scheduler, _ = scheduler_of(1, 10, running, gone, stays)
    assert scheduler.release(gone) is None
    assert scheduler.everyone() == [running, stays]
    scheduler.release(running)
    assert admit(scheduler) == [stays]


def test_those_that_stay_keep_their_order_when_others_are_released() -> None:
    scheduler = Scheduler(KvCache(100), 20)
    sequences = [sequence(Urgency(number)) for number in (2, 2, 3, 2, 0, 3, 0, 3, 2, 0)]
    add(scheduler, *sequences)
    stay = [s for i, s in enumerate(sequences) if i not in (4, 6)]
    scheduler.release(sequences[4])
    scheduler.release(sequences[6])
    assert admit(scheduler) == sorted(stay, key=lambda s: s.urgency)


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
    put_back: Counter[int] = Counter()
    scheduler = Scheduler(KvCache(blocks), places)
    here: list[Sequence] = []
    for number_of_move, (move, number) in enumerate(done):
        match move:
            case "add":
                owner = (None, "a", "b")[number_of_move % 3]
                new = sequence(Urgency(number), blocks=1 + number_of_move % 6, owner=owner)
                if new.most_tokens > scheduler.most_tokens(new.urgency):
                    continue
                here.append(new)
                scheduler.add(new)
            case "release" if here:
                gone = here.pop(number % len(here))
                compute(gone) if gone.blocks else None
                scheduler.release(gone)
                assert gone.blocks == ()
            case "admit":
                running = list(scheduler.running)
                queue = sorted((s for s in here if s not in running), key=lambda s: s.urgency)
                moved = scheduler.admit(0.0)
                admitted = moved.admitted
                for each in moved.put_back:
                    assert each.urgency >= Urgency.JOB
                    assert (each.blocks, each.stored) == ((), 0)
                    put_back[each.sequence_id] += 1
                    assert put_back[each.sequence_id] <= MOST_TIMES_PUT_BACK
                firm = [s for s in queue if s.urgency != Urgency.SPECULATION]
                placed = [s for s in admitted if s.urgency != Urgency.SPECULATION]
                assert placed == firm[: len(placed)]
                stayed = [s for s in running if s not in moved.put_back]
                assert scheduler.running == stayed + admitted
                if len(stayed) < len(running):
                    assert any(s.urgency == Urgency.TURN for s in admitted)
                less_urgent = sum(s.urgency > 0 for s in scheduler.running)
                assert less_urgent <= max(1, places - 1)
        background = sum(s.blocks_needed for s in scheduler.running if s.urgency >= Urgency.JOB)
        assert background <= blocks // 2
        held = [block for s in scheduler.running for block in s.blocks]
        assert len(held) == len(set(held)) == sum(s.blocks_needed for s in scheduler.running)
        assert scheduler.cache.available == blocks - len(held)
        assert len(scheduler.running) <= places
        everyone = scheduler.everyone()
        assert len(everyone) == len(here) == len(scheduler.running) + scheduler.waiting
        assert set(map(id, everyone)) == set(map(id, here))
