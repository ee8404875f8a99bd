"""Pauses that are scored for how complete their words sound."""

import numpy as np
import pytest

from tests.sessions.test_session import FRAME_S, requests, told
from voxtral_worker.engine.request import Finished, Timings, Usage
from voxtral_worker.errors import BadInput
from voxtral_worker.sessions import events
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Cancel, Effect, Generate, Score, Settle
from voxtral_worker.sessions.session import Session

DONE = Finished("stop", Usage(400, 2, 100), Timings(0.0, 0.1, 0.02))
# Speech that is long enough to be scored, and the pause that is.
SPEECH, PAUSE = 40, 5


class ScoredTalk:
    """A session whose pauses are scored; speech is loud and silence is not."""

    def __init__(self, *, speculates: bool = False, **options: object) -> None:
        config = SessionConfig().updated({"turn_detection": "semantic", **options})
        self.session = Session("s", config, 0.0, speculates=speculates, has_scorer=True)
        self.now_s = 0.0

    def hear(self, probability: float, frames: int) -> list[Effect]:
        """Frames of one call, and how many of them were not taken."""
        self.now_s += frames * FRAME_S
        sound = np.full((frames, 512), probability, np.float32)
        before = self.session.listening.detector.frames_heard
        effects = self.session.listening.hear(sound, [probability] * frames, self.now_s)
        self.left = frames - (self.session.listening.detector.frames_heard - before)
        return effects

    def pause(self) -> tuple[Score, list[Effect]]:
        effects = self.hear(0.9, SPEECH) + self.hear(0.0, PAUSE)
        (asked,) = [effect for effect in effects if isinstance(effect, Score)]
        return asked, effects

    def score(self, asked: Score, score: float | None) -> list[Effect]:
        return self.session.listening.scoring.tell(asked.pause, score, self.now_s)


def test_a_pause_is_scored_by_the_sound_of_its_turn() -> None:
    talk = ScoredTalk()
    talk.hear(0.0, 30)
    asked, _ = talk.pause()
    assert asked.samples.shape == ((10 + SPEECH + PAUSE) * 512,)
    assert not asked.samples[: 10 * 512].any()
    assert (asked.samples[10 * 512 : 50 * 512] == np.float32(0.9)).all()


def test_of_a_long_turn_the_last_eight_seconds_are_scored() -> None:
    talk = ScoredTalk()
    effects = talk.hear(0.9, 400) + talk.hear(0.0, PAUSE)
    (asked,) = [effect for effect in effects if isinstance(effect, Score)]
    assert asked.samples.shape == (8 * 16_000,)


def test_no_frame_is_heard_for_which_the_score_is_due() -> None:
    talk = ScoredTalk()
    asked, _ = talk.pause()
    assert told(talk.hear(0.0, 20)) == []
    assert talk.left == 19
    assert talk.session.listening.scoring.is_due
    talk.score(asked, 0.95)
    (ended, accepted) = told(talk.hear(0.0, 19))
    assert isinstance(ended, events.SpeechEnded)
    assert (ended.reason, ended.completeness) == ("semantic", 0.95)
    assert isinstance(accepted, events.Accepted)
    assert talk.left == 0


@pytest.mark.parametrize(
    ("score", "frames", "reason"),
    [(0.9, 7, "semantic"), (0.6, 18, "silence"), (0.3, 30, "silence"), (None, 17, "silence")],
)
def test_a_turn_ends_as_its_score_says(score: float | None, frames: int, reason: str) -> None:
    talk = ScoredTalk()
    asked, _ = talk.pause()
    talk.score(asked, score)
    assert told(talk.hear(0.0, frames - PAUSE - 1)) == []
    (ended, _) = told(talk.hear(0.0, 1))
    assert isinstance(ended, events.SpeechEnded)
    assert (ended.reason, ended.completeness) == (reason, score)


def test_a_stream_that_stops_is_waited_for_as_long_as_the_longest_pause() -> None:
    assert ScoredTalk().session.listening.stall_s == pytest.approx(0.96 + 0.25)
    assert ScoredTalk(eagerness="low").session.listening.stall_s == pytest.approx(1.6 + 0.25)


def test_words_that_sound_incomplete_have_their_guess_dropped_and_made_again_before_the_end() -> (
    None
):
    talk = ScoredTalk(speculates=True)
    # Answered turns earn the credit for two guesses.
    for _ in range(4):
        talk.session.listening.turns.speculator.policy.end_turn()
    asked, effects = talk.pause()
    (first,) = requests(effects)
    assert Cancel(first) in talk.score(asked, 0.2)
    assert requests(talk.hear(0.0, 18)) == {}
    (second,) = requests(talk.hear(0.0, 2))
    effects = talk.hear(0.0, 5)
    assert isinstance(told(effects)[0], events.SpeechEnded)
    talk.session.on_event(first, DONE, talk.now_s)
    assert Settle("committed") in talk.session.on_event(second, DONE, talk.now_s)


def test_words_that_sound_complete_are_answered_ahead_even_of_who_pauses_often() -> None:
    talk = ScoredTalk(speculates=True)
    policy = talk.session.listening.turns.speculator.policy
    policy.pauses.extend([9] * 8)
    asked, effects = talk.pause()
    assert requests(effects) == {}
    effects = talk.score(asked, 0.95)
    (generate,) = effects
    assert isinstance(generate, Generate)
    assert talk.score(asked, 0.95) == []


def test_a_guess_that_was_made_stays_where_the_words_sound_complete() -> None:
    talk = ScoredTalk(speculates=True)
    asked, effects = talk.pause()
    assert len(requests(effects)) == 1
    assert talk.score(asked, 0.95) == []
    talk = ScoredTalk(speculates=True)
    asked, effects = talk.pause()
    assert talk.score(asked, 0.6) == []


def test_turns_by_scores_are_refused_where_nobody_scores_and_nothing_changes() -> None:
    session = Session("s", SessionConfig(), 0.0)
    with pytest.raises(BadInput, match="no turn model"):
        session.update_config({"turn_detection": "semantic", "top_p": 0.5})
    assert session.config.top_p == 0.95
    session = Session("s", SessionConfig(), 0.0, has_scorer=True)
    session.update_config({"turn_detection": "semantic"})
    assert session.config.turn_detection == "semantic"
