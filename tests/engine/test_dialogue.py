"""Messages of any roles, in any order, have an obvious meaning."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtral_worker.engine.conversation import AssistantTurn, Audio, Exchange, UserTurn
from voxtral_worker.engine.dialogue import Said, dialogue, exchanges


def meant(*said: tuple[str, str]) -> tuple[str | None, list[tuple[str, str]]]:
    """The system text and the turns of messages "role: text"."""
    heard = dialogue([Said(role, (text,)) for role, text in said])
    return heard.system, [(turn.role, "|".join(turn.parts)) for turn in heard.turns]


S, U, A = "system", "user", "assistant"


@pytest.mark.parametrize(
    ("said", "system", "turns"),
    [
        ([(S, "s"), (U, "u")], "s", [(U, "u")]),
        ([(S, "s"), (S, "t"), (U, "u")], "s\n\nt", [(U, "u")]),
        ([(U, "u"), (A, "a"), (S, "s")], None, [(U, "u"), (A, "a"), (U, "s")]),
        ([(U, "u"), (A, "a"), (S, "s"), (U, "v")], None, [(U, "u"), (A, "a"), (U, "s\n\nv")]),
        ([(U, "u"), (S, "s"), (A, "a"), (U, "v")], None, [(U, "u\n\ns"), (A, "a"), (U, "v")]),
        ([(A, "a"), (U, "u")], None, [(U, ""), (A, "a"), (U, "u")]),
        ([(S, "s"), (A, "a"), (U, "u")], "s", [(U, ""), (A, "a"), (U, "u")]),
        ([(U, "u"), (A, ""), (U, "v")], None, [(U, "u\n\nv")]),
        ([(U, "u"), (A, " \n"), (U, "v")], None, [(U, "u\n\nv")]),
        ([(S, ""), (U, "u")], None, [(U, "u")]),
        ([(U, ""), (S, "s"), (U, "u")], "s", [(U, "u")]),
        ([(U, "u"), (A, "a"), (A, "b"), (U, "v")], None, [(U, "u"), (A, "a\n\nb"), (U, "v")]),
        # Nothing new was said: the system text is what is answered.
        ([(S, "s")], None, [(U, "s")]),
        ([(S, "s"), (U, "u"), (A, "a")], None, [(U, "u"), (A, "a"), (U, "s")]),
        ([(U, "u"), (A, "a")], None, [(U, "u"), (A, "a"), (U, "")]),
        ([(U, "")], None, [(U, "")]),
        ([], None, [(U, "")]),
    ],
)
def test_an_order_of_roles_has_its_obvious_meaning(
    said: list[tuple[str, str]], system: str | None, turns: list[tuple[str, str]]
) -> None:
    assert meant(*said) == (system, turns)


@given(st.lists(st.tuples(st.sampled_from([S, U, A]), st.text("ab ", max_size=3)), max_size=9))
def test_turns_alternate_and_lose_no_word(said: list[tuple[str, str]]) -> None:
    system, turns = meant(*said)
    assert [role for role, _ in turns] == [U, A] * (len(turns) // 2) + [U]
    told = f"{system or ''}{''.join(text for _, text in turns)}"
    # In the place of the user the system text stands last; else the order is kept.
    assert sorted(told.replace("\n", "").replace(" ", "")) == sorted(
        "".join(text for _, text in said).replace(" ", "")
    )


def test_parts_that_are_no_texts_stay_in_their_place() -> None:
    said: list[Said[str | int]] = [
        Said(U, ("a", 1)),
        Said(U, (2, "b")),
        Said(S, ("c", "d")),
        Said(U, (3,)),
    ]
    heard = dialogue(said)
    assert heard.turns == (Said(U, ("a", 1, 2, "b\n\nc", "d", 3)),)


def test_turns_become_a_history_and_the_users_last_turn() -> None:
    said: list[Said[str | Audio]] = [Said(A, ("Hello. ", "You?")), Said(U, ("Hi",))]
    heard = dialogue(said)
    history, user, rounds = exchanges(heard.turns)
    assert rounds == ()
    assert history == (Exchange(UserTurn(()), AssistantTurn(text="Hello. You?")),)
    assert user == UserTurn(("Hi",))
