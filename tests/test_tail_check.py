"""`voxtral tail-check` on the bundled clips."""

import json
from pathlib import Path
from typing import Any

import pytest

from voxtral_worker import tail_check, tail_report
from voxtral_worker.checkpoint import fingerprint
from voxtral_worker.client import command
from voxtral_worker.engine.tail_record import has_passed, record_path, write_record
from voxtral_worker.settings import EMBEDDED_MODEL

CLIPS = EMBEDDED_MODEL / "clips"


@pytest.fixture(autouse=True)
def embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MODEL_ID": str(EMBEDDED_MODEL), "DEVICE": "cpu"}.items():
        monkeypatch.setenv(name, value)


def some_clips(count: int = 2) -> dict[str, str]:
    return dict(list(json.loads((CLIPS / "index.json").read_text()).items())[:count])


def check(tmp_path: Path, clips: int = 2) -> tuple[int, Any]:
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps(some_clips(clips)))
    output = tmp_path / "record.json"
    files = [str(CLIPS / name) for name in some_clips(clips)]
    code = tail_check.main([*files, "--texts", str(texts), "--output", str(output)])
    return code, json.loads(output.read_text())


@pytest.mark.timeout(600)
def test_the_embedded_model_says_the_same_in_both_modes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, record = check(tmp_path)
    assert code == 1
    assert record["objections"] == ["2 recordings, but 200 are needed"]
    assert "FAIL: 2 recordings" in capsys.readouterr().out
    assert record["fingerprint"] == fingerprint(EMBEDDED_MODEL)
    figures = record["figures"]["all"]
    # Two written down, two answered, and the second as the second of two turns.
    assert figures["answers"] == figures["same"] == 5
    assert figures["words_differ"] == figures["new_loops"] == 0
    assert figures["errors"]["exact"] == figures["errors"]["sampled"] == 0
    assert 0 < figures["kl_99"] < 0.01
    assert figures["rows_sampled"] < figures["rows_exact"] / 3
    monkeypatch.setattr(tail_report, "LEAST_RECORDINGS", 1)
    code, record = check(tmp_path, clips=1)
    assert (code, record["passed"]) == (0, True)
    assert "The gate holds" in capsys.readouterr().out


def test_the_command_is_one_of_voxtral(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["tail-check", "--help"])
    assert ended.value.code == 0
    assert "--texts" in capsys.readouterr().out
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SystemExit, match="pip install"):
        command.main(["tail-check", "a.wav"])


@pytest.mark.parametrize(
    ("files", "texts", "sentence"),
    [
        ({}, None, "has no sound files"),
        ({"a.wav": b"no sound"}, None, "a.wav: "),
        ({"a.wav": None}, "[]", "must be an object of texts"),
        ({"a.wav": None}, '{"b.wav": "hello"}', "a text for b.wav, but there is no such recording"),
        ({"a.wav": None}, "{", "is not JSON"),
    ],
)
def test_what_cannot_be_used_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    files: dict[str, bytes | None],
    texts: str | None,
    sentence: str,
) -> None:
    clip = (CLIPS / next(iter(some_clips()))).read_bytes()
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(clip if data is None else data)
    words = [str(folder)]
    if texts is not None:
        (tmp_path / "texts.json").write_text(texts)
        words += ["--texts", str(tmp_path / "texts.json")]
    with pytest.raises(SystemExit) as ended:
        tail_check.main(words)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_file_that_is_not_there_and_a_name_that_is_there_twice_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = CLIPS / next(iter(some_clips()))
    for files, sentence in (
        ([tmp_path / "none.wav"], "none.wav"),
        ([clip, clip], f"two recordings are named {clip.name}"),
    ):
        with pytest.raises(SystemExit):
            tail_check.main([str(file) for file in files])
        assert sentence in capsys.readouterr().err


def test_a_model_that_cannot_be_loaded_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = CLIPS / next(iter(some_clips()))
    assert tail_check.main([str(clip), "--model", str(tmp_path)]) == 1
    assert "cannot be loaded" in capsys.readouterr().err


def test_a_record_counts_for_the_very_weights_that_were_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    weights = folder / "model.safetensors"
    weights.write_bytes(b"a" * 3_000_000)
    mark = fingerprint(folder)
    assert not has_passed(folder, mark)
    write_record(record_path(mark), {"fingerprint": mark, "passed": False})
    assert not has_passed(folder, mark)
    write_record(record_path(mark), {"fingerprint": mark, "passed": True})
    assert has_passed(folder, mark)
    # Trained further: the end of the file differs, and so does its name among the records.
    weights.write_bytes(b"a" * 2_999_999 + b"b")
    assert fingerprint(folder) != mark
    assert not has_passed(folder, fingerprint(folder))
    record_path(mark).unlink()
    for text in ("[]", "{", '{"passed": true}'):
        (folder / "tail-check.json").write_text(text)
        assert not has_passed(folder, mark)
    write_record(folder / "tail-check.json", {"fingerprint": mark, "passed": True})
    assert has_passed(folder, mark)
