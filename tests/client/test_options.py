"""The options that a type checker knows are those of a session."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from tests.support.words import words_of
from voxtral_worker.client import Options
from voxtral_worker.sessions.config import OPTIONS, SessionConfig
from voxtral_worker.values.model import may_be_null

HINTS = get_type_hints(Options)


def test_the_typed_options_are_those_of_a_session() -> None:
    assert set(HINTS) == set(OPTIONS)
    assert Options.__optional_keys__ == set(OPTIONS)


@pytest.mark.parametrize("name", ["mode", "encoding"])
def test_the_choices_of_an_option_are_those_of_the_session(name: str) -> None:
    assert words_of(OPTIONS[name]) == "one of " + ", ".join(get_args(HINTS[name]))


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_may_be_none_where_null_is_a_value(name: str) -> None:
    may_be_none = type(None) in get_args(HINTS[name])
    assert may_be_none == may_be_null(OPTIONS[name])


def test_the_defaults_are_of_the_types() -> None:
    for name, value in SessionConfig().as_dict().items():
        kind = HINTS[name]
        # A list of tools is a sequence of any kind.
        kinds = (list,) if name == "tools" else get_args(kind) or (kind,)
        names = [each if isinstance(each, str) else getattr(each, "__name__", "") for each in kinds]
        assert value in names or type(value).__name__ in names, name


USES = """
from voxtral_worker.client import Voxtral, VoxtralClient

async def talk(client: VoxtralClient, other: Voxtral) -> None:
    VoxtralClient("http://localhost:8000", temperature=0, mode="transcribe", language=None)
    await client.update(silence_ms=300, stop=["."])
    other.update(barge_in=False)
    await client.update(silence=300)
    await client.update(mode="chatter")
    other.update(temperature="hot")
    Voxtral("http://localhost:8000", templerature=0)
"""


def test_a_type_checker_finds_a_wrong_option(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(USES)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "--follow-imports=silent"]
        + ["--cache-dir", str(tmp_path), "program.py"],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(Path(__file__).parents[2] / "src")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [int(line.split(":")[1]) for line in checked.stdout.splitlines() if ": error:" in line]
    assert lines == [8, 9, 10, 11], checked.stdout + checked.stderr
