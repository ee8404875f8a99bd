from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_worker.sessions.partials import StablePrefix

hypotheses = st.lists(
    st.lists(st.sampled_from(["the", "sea", "see", "is", "a"]), max_size=6).map(" ".join),
    max_size=12,
)


@given(hypotheses)
@settings(max_examples=100, deadline=None)
def test_stable_characters_never_change(texts: list[str]) -> None:
    prefix = StablePrefix()
    stable_text = ""
    for text in texts:
        shown, stable_chars = prefix.update(text)
        assert shown.startswith(stable_text)
        assert stable_chars >= len(stable_text)
        assert stable_chars <= len(shown)
        stable_text = shown[:stable_chars]


def test_words_that_two_hypotheses_share_are_stable() -> None:
    prefix = StablePrefix()
    assert prefix.update("What is the") == ("What is the", 0)
    assert prefix.update("What is a sea") == ("What is a sea", len("What is"))
    assert prefix.update("What is a sea") == ("What is a sea", len("What is a sea"))


def test_a_hypothesis_that_drops_stable_words_does_not_take_them_back() -> None:
    prefix = StablePrefix()
    prefix.update("good morning all")
    assert prefix.update("good morning")[1] == len("good morning")
    assert prefix.update("bad") == ("good morning", len("good morning"))
    assert prefix.update("") == ("good morning", len("good morning"))


def test_hypotheses_that_agree_against_the_stable_words_change_nothing() -> None:
    prefix = StablePrefix()
    prefix.update("good")
    prefix.update("good")
    prefix.update("bad day it is")
    assert prefix.update("bad day it was") == ("good day it was", len("good"))
