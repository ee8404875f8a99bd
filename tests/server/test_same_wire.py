"""The wire of both dialects is, byte for byte, what it was when the corpus was recorded."""

import pytest

from tests.support.wire_talks import SCRIPTS, normal, play, read_corpus


@pytest.mark.parametrize("name", SCRIPTS)
async def test_a_conversation_is_told_in_the_recorded_bytes(name: str) -> None:
    assert (await play(name)).splitlines() == read_corpus()[name].splitlines()


def test_the_corpus_has_every_conversation() -> None:
    assert read_corpus().keys() == SCRIPTS.keys()


def test_equal_ids_stay_equal_and_different_ones_different() -> None:
    one, two = "item_" + "a" * 24, "item_" + "b" * 24
    assert normal(f'"{one}" "{two}" "{one}"') == '"item_1" "item_2" "item_1"'
    assert normal('"timestamp": 12.5, "seq": 4') == '"timestamp": 0, "seq": 4'
