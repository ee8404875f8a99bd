"""Random schedules, many of them: are the greedy tokens those of `generate()`?"""

from collections import Counter

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from tests.support.schedules import BLOCKS, Reference, Visit, check, visits
from voxtral_worker.engine.layout import EXACT, WINDOW_TAILS
from voxtral_worker.engine.model import load_model
from voxtral_worker.settings import EMBEDDED_MODEL, Settings

SCHEDULES = 200
MOST_SESSIONS = 16


def run(schedules: int = SCHEDULES, most_sessions: int = MOST_SESSIONS) -> None:
    """Check many schedules in both modes; prints what was met on the way."""
    for window_tail in WINDOW_TAILS:
        _run(schedules, most_sessions, window_tail)


def _run(schedules: int, most_sessions: int, window_tail: str) -> None:
    chosen = Settings(model_id=str(EMBEDDED_MODEL), device="cpu", dtype="float32")
    loaded = load_model(chosen)
    reference = Reference(load_model(chosen).model, loaded, window_tail=window_tail)
    total: Counter[str] = Counter()
    bar = tqdm(total=schedules, mininterval=10)

    @settings(
        max_examples=schedules,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(visits(most_sessions), st.sampled_from(BLOCKS))
    def every(sessions: list[Visit], blocks: int) -> None:
        nonlocal total
        total += check(loaded, reference, sessions, blocks)
        total += Counter(schedules=1, sessions=len(sessions))
        bar.update()

    every()
    bar.close()
    whose = "generate()" if window_tail == EXACT else "the reduced reference"
    print(f"\nGreedy tokens equal to {whose} on the whole conversation, float32, in random")
    print("schedules: " + ", ".join(f"{count} {name}" for name, count in sorted(total.items())))
