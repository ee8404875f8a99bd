"""`make verify` says of a checkpoint whether the worker answers as the model itself does."""

import shutil
from pathlib import Path

import pytest
import torch

from bench import verify
from bench.verify import Answered, Compared, Expected, compare, run, word_errors
from tests.bench.test_gpu_check import CPU, row
from tests.support.random_model import SMALL, write_random_model
from voxtral_worker.settings import EMBEDDED_MODEL

CLIPS = EMBEDDED_MODEL / "clips"


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.setenv("MODEL_ID", str(EMBEDDED_MODEL))


def test_the_embedded_model_passes_on_bundled_and_own_recordings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    shutil.copy(CLIPS / "stop-the-music.wav", own / "mine.WAV")
    (own / "mine.txt").write_text("Stop that music, please!")
    # Without a text that says what is in it; it has the name of a bundled clip.
    shutil.copy(CLIPS / "turn-on-the-kitchen-light.wav", own)
    assert run(["--audio", str(own), "--clips", "2"]) == 0
    text = capsys.readouterr().out
    assert row(text, "turn-on-the-kitchen-light.wav")[1::3] == ["0 of 5", "equal"]
    # A reference that differs is shown, but the gate does not use it.
    assert row(text, "own/mine.WAV")[1::3] == ["2 of 4", "equal"]
    assert row(text, "own/turn-on-the-kitchen-light.wav")[1::3] == ["-", "equal"]
    assert row(text, "answer to 'hello'")[4] == "equal"
    assert "bundled clips: 0 of 11 words wrong" in text
    assert row(text, "loaded")[1].endswith("s")
    assert row(text, "memory")[1].startswith("process at most")
    assert text.strip().splitlines()[-1].startswith("PASS")


def test_a_model_that_knows_no_words_fails_by_its_words_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_random_model(tmp_path / "random", SMALL, CPU)
    monkeypatch.setenv("MODEL_ID", str(tmp_path / "random"))
    monkeypatch.setenv("DTYPE", "float32")
    assert run(["--clips", "1", "--tokens", "8"]) == 1
    text = capsys.readouterr().out
    assert row(text, "turn-on-the-kitchen-light.wav")[4] == "equal"
    assert "FAIL: word error rate of the bundled clips" in text.strip().splitlines()[-1]


def test_other_tokens_than_those_of_generate_are_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = verify.Plain.generate

    def wrong(self: verify.Plain, question: verify.Question) -> Expected:
        expected = generate(self, question)
        return Expected(expected.prompt_ids, [9, *expected.token_ids[1:]], expected.margins)

    monkeypatch.setattr(verify.Plain, "generate", wrong)
    assert run(["--clips", "1"]) == 1
    assert "FAIL: 4 of 4 answers differ from generate()'s" in capsys.readouterr().out


def answered(*token_ids: int, finish_reason: str = "stop") -> Answered:
    return Answered("", list(token_ids), 0.1, 10.0, finish_reason)


@pytest.mark.parametrize(
    ("prompt", "answer", "equal", "said"),
    [
        ([1], answered(5, 6, 2), 3, "equal"),
        ([0], answered(5, 6, 2), 0, "another prompt than the processor's"),
        ([1], answered(7, 6, 2), 0, "token 1 is 7, not 5"),
        # The third is a near tie, behind which everything may differ.
        ([1], answered(5, 6, 9, 9), 2, "equal for 2 tokens, then a near tie"),
        ([1], answered(5, 6), 2, "equal for 2 tokens, then a near tie"),
        ([1], answered(5), 1, "token 2 is missing, not 6"),
        ([1], answered(5, finish_reason="length"), 1, "equal for 1 tokens, then cut off"),
        ([1], answered(5, 6, 2, 5), 3, "goes on behind generate()'s end"),
    ],
)
def test_answers_are_compared_to_the_first_near_tie(
    prompt: list[int], answer: Answered, equal: int, said: str
) -> None:
    compared = compare(prompt, answer, Expected([1], [5, 6, 2], [1.0, 1.0, 0.01]), 0.1)
    assert (compared.equal, str(compared)) == (equal, said)
    assert (compared.difference is None) == said.startswith("equal")


def test_where_nothing_could_be_compared_a_checkpoint_does_not_pass(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tie = Compared(0, note=" for 0 tokens, then a near tie")
    monkeypatch.setattr(verify, "compare", lambda *_: tie)
    assert run(["--clips", "1"]) == 1
    assert "FAIL: generate() was sure of no token" in capsys.readouterr().out


def test_words_are_compared_without_case_marks_and_ways_to_write_numbers() -> None:
    assert word_errors("set a timer for five minutes", "Set a timer for 5 minutes.") == (0, 6)
    assert word_errors("stop the music", "Stop that music now!") == (2, 3)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (None, "must be a folder"),
        ({"notes.txt": b"x"}, "holds no file that ends in .wav"),
        ({"noise.wav": b"x"}, "noise.wav: audio cannot be decoded"),
        ({"noise.wav": b"x", "noise.txt": b"\xff"}, "noise.txt must be a text in UTF-8"),
    ],
)
def test_recordings_that_cannot_be_used_are_named(
    files: dict[str, bytes] | None,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "audio"
    for name, data in (files or {}).items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    assert run(["--audio", str(folder)]) == 2
    assert said in capsys.readouterr().out


def test_a_device_without_memory_is_a_verdict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Expected:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(verify.Plain, "generate", fail)
    assert run(["--clips", "1"]) == 1
    assert "FAIL: generate() needs more memory" in capsys.readouterr().out


def test_what_cannot_be_tried_is_told_apart_from_what_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["--clips", "0"]) == 2
    monkeypatch.setenv("MODEL_ID", "")
    assert run([]) == 2
    assert "make verify MODEL_ID=" in capsys.readouterr().out
    monkeypatch.setenv("MODEL_ID", str(tmp_path / "nothing"))
    assert run([]) == 1
    assert "FAIL: model" in capsys.readouterr().out
    monkeypatch.setenv("DTYPE", "int3")
    assert run([]) == 2
    assert "DTYPE is 'int3'" in capsys.readouterr().out
