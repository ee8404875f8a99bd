"""A job run by hand."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.job_fakes import SteppingEngine
from voxtral_worker.jobs.handler import JobHandler
from voxtral_worker.jobs.local import run_local
from voxtral_worker.settings import Settings


@pytest.fixture
def handler() -> Iterator[JobHandler]:
    engine = SteppingEngine()
    yield JobHandler(engine, lambda: {"status": "healthy"}, Settings())
    engine.stop()


def test_the_whole_output_is_printed(
    handler: JobHandler, capsys: pytest.CaptureFixture[str]
) -> None:
    job = {"input": {"type": "text", "texts": ["één", "b"], "stream": True}}
    assert run_local(handler, ["--test_input", json.dumps(job)]) == 0
    pieces = json.loads(capsys.readouterr().out)
    assert [piece["text"] for piece in pieces if "text" in piece] == ["één ", "b "]
    assert any("delta" in piece for piece in pieces)


def test_a_file_in_this_folder_goes_before_the_repositorys(
    handler: JobHandler,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_local(handler, []) == 0
    assert json.loads(capsys.readouterr().out)[0]["text"] == "hello "
    (tmp_path / "test_input.json").write_text('{"input": {"type": "health"}}')
    assert run_local(handler, []) == 0
    assert json.loads(capsys.readouterr().out) == [{"status": "healthy"}]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "cannot run a test job"),
        ("[]", 'a job is an object with the key "input"'),
        ("{}", 'a job is an object with the key "input"'),
        ('{"input": {"type": "talk"}}', "the test job failed: type is 'talk'"),
    ],
)
def test_a_job_that_fails_or_is_none_ends_with_1_and_a_reason(
    handler: JobHandler, text: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_local(handler, ["--test_input", text]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert reason in captured.err
