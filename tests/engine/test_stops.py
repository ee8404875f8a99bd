"""Stop texts end an answer wherever its text is cut, and never show."""

from hypothesis import given
from hypothesis import strategies as st

from voxtral_worker.engine.stops import StopFilter

letters = st.text("abc", max_size=12)
stops = st.lists(st.text("abc", min_size=1, max_size=4), max_size=4)


def said(pieces: list[str], stops: list[str]) -> tuple[str, tuple[int, ...], bool]:
    """The text that comes out, the tokens of it, and whether it was ended; piece n is token n."""
    stop_filter = StopFilter(stops)
    out = [stop_filter.push(piece, (number,)) for number, piece in enumerate(pieces) if piece]
    out.append(stop_filter.finish())
    tokens = tuple(token for _, ids in out for token in ids)
    return "".join(text for text, _ in out), tokens, stop_filter.has_stopped


def cut_by_hand(text: str, stops: list[str]) -> str:
    """By definition: before the stop text that is whole first; of two the longer."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(len(stop) for stop in ending)]
    return text


@given(st.lists(letters, max_size=8), stops)
def test_the_text_does_not_depend_on_how_it_was_cut(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    text, _, has_stopped = said(pieces, stops)
    assert text == cut_by_hand(whole, stops)
    assert has_stopped == any(stop in whole for stop in stops)


@given(st.lists(letters.filter(bool), max_size=8), stops)
def test_tokens_are_told_once_their_text_is_all_out(pieces: list[str], stops: list[str]) -> None:
    text, tokens, _ = said(pieces, stops)
    told = "".join(pieces[token] for token in tokens)
    assert text.startswith(told)
    if told != text:
        assert len(text) < len(told) + len(pieces[len(tokens)])


def test_nothing_that_may_begin_a_stop_text_goes_out_and_nothing_else_is_held() -> None:
    stop_filter = StopFilter(["END."])
    assert stop_filter.push("The ", (1,)) == ("The ", (1,))
    assert stop_filter.push("E", (2,)) == ("", ())
    assert stop_filter.push("ND", (3,)) == ("", ())
    assert stop_filter.push(" of", (4,)) == ("END of", (2, 3, 4))
    assert stop_filter.push(" it EN", (5,)) == (" it ", ())
    assert stop_filter.push("D. No", (6,)) == ("", ())
    assert stop_filter.has_stopped
    assert stop_filter.push("more", (7,)) == stop_filter.finish() == ("", ())


def test_what_was_held_goes_out_at_the_end() -> None:
    assert said(["a", "EN"], ["END"]) == ("aEN", (0, 1), False)
