"""Turns of which it is known where they pause, and what a table says of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bench.turns_check import BadManifest, Heard, Spoken, read_manifest, row_of
from bench.turns_set import LONGER, cut_at_pauses, pauses
from voxtral_worker.audio.frames import FRAME_SAMPLES, SAMPLE_RATE


def recording(folder: Path, seconds: float = 3.0, rate: int = SAMPLE_RATE) -> None:
    samples = np.random.default_rng(1).normal(0, 0.1, int(seconds * rate))
    soundfile.write(folder / "a.wav", samples, rate)


def manifest(folder: Path, *rows: object) -> Path:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    (folder / "manifest.jsonl").write_text(text, "utf-8")
    return folder


def row(*spans: tuple[float, float], **fields: object) -> dict[str, object]:
    silences = [{"start": start, "end": end} for start, end in spans]
    return {"id": "a", "audio": "a.wav", "silence_spans": silences, **fields}


@pytest.mark.parametrize("rate", [8000, 16_000, 48_000])
def test_a_turn_ends_in_silence_whatever_follows_it_in_its_recording(
    tmp_path: Path, rate: int
) -> None:
    recording(tmp_path, rate=rate)
    (turn,) = read_manifest(manifest(tmp_path, row((0.5, 0.55), (1.0, 1.5), (2.0, 2.4))))
    assert (turn.name, turn.kind, turn.spans) == ("a", "all", ((1.0, 1.5), (2.0, 2.4)))
    assert len(turn.samples) % FRAME_SAMPLES == 0
    behind = int(2.4 * SAMPLE_RATE)
    assert np.abs(turn.samples[behind - 100 : behind]).max() > 0
    assert not turn.samples[behind:].any()
    assert len(turn.samples) >= 4.2 * SAMPLE_RATE


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"id": "a"}, "silence_spans"),
        (row(), "silence_spans is empty"),
        (row((1.0, 0.5)), "in order"),
        (row((1.0, 1.5), (0.2, 0.4)), "in order"),
        (row((9.0, 9.5)), "after the end of a.wav"),
        (row((1.0, 1.5), audio="none.wav"), "none.wav"),
        ("{", "Expecting"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, bad: object, told: str) -> None:
    recording(tmp_path)
    with pytest.raises(BadManifest, match=rf"line 2: .*{told}"):
        read_manifest(manifest(tmp_path, row((1.0, 1.5)), bad))


def test_a_folder_without_turns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadManifest, match="is not there"):
        read_manifest(tmp_path)
    with pytest.raises(BadManifest, match="no turn"):
        read_manifest(manifest(tmp_path, ""))


def heard(ended: list[float], reopened: list[float]) -> Heard:
    spans = ((1.0, 1.8), (2.5, 2.8), (4.0, 5.0))
    spoken = Spoken("a", "all", np.zeros(0, np.int16), spans)
    return Heard(spoken, [(at, "silence") for at in ended], reopened)


def test_a_turn_that_ends_in_a_hold_is_cut_and_mended_when_it_opens_again() -> None:
    assert heard([4.5], []).cuts() == []
    assert heard([1.5, 4.5], []).cuts() == [((1.0, 1.8), False)]
    assert heard([1.5, 4.5], [2.0]).cuts() == [((1.0, 1.8), True)]
    both = heard([1.5, 2.9, 4.5], [3.0])
    assert both.cuts() == [((1.0, 1.8), False), ((2.5, 2.8), True)]


def test_a_table_has_the_waits_in_ms_and_the_shares_of_holds() -> None:
    cells = row_of([heard([4.3], []), heard([1.5, 4.5], [2.0]), heard([1.5, 4.6], [])])
    assert cells == ["3", "500", "467", "600", "600", "6", "33.3 %", "16.7 %"]


def test_a_turn_that_never_ends_is_told() -> None:
    assert row_of([heard([4.3], []), heard([], [])])[0] == "2 (1 without an end)"


def test_pauses_are_as_long_as_those_of_people() -> None:
    import random

    lengths = pauses(1000, random.Random(1))
    for share, seconds in LONGER[1:-1]:
        assert sum(length > seconds for length in lengths) / 1000 == pytest.approx(share, abs=0.01)


def test_a_recording_is_cut_where_its_speaker_pauses() -> None:
    noise = np.random.default_rng(1).normal(0, 0.3, SAMPLE_RATE).astype(np.float32)
    gap = np.zeros(SAMPLE_RATE // 4, np.float32)
    short = np.zeros(SAMPLE_RATE // 20, np.float32)
    found = cut_at_pauses(np.concatenate([gap, noise, short, noise, gap, noise, gap]))
    assert [len(piece) / SAMPLE_RATE for piece in found] == pytest.approx([2.05, 1.0], abs=0.02)
