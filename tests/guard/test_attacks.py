"""What is tried on authentication and on addresses is refused, and the docs say how."""

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.attacks_on_access import ATTACKS, Attack
from tests.support.ports import free_port
from tests.support.running_server import RunningServer
from tests.support.settings import changed
from tests.support.world import KEY, World, bearer, exchange
from voxtral_worker.settings import Settings
from voxtral_worker.turns.vad import Vad

Start = Callable[..., RunningServer]
DOCS = Path(__file__).parents[2] / "docs" / "security.md"


@pytest.fixture(scope="module")
def world(vad: Vad) -> Iterator[World]:
    running: list[RunningServer] = []

    def start(**settings: Any) -> RunningServer:
        given = Settings(host="127.0.0.1", port=free_port(), rate_limit_enabled=False)
        server = RunningServer(changed(given, **settings), vad)
        running.append(server)
        server.become_ready()
        return server

    yield World(start)
    for server in running:
        server.stop()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_gets_the_answer_that_the_docs_name(
    world: World, attack: Attack, caplog: pytest.LogCaptureFixture
) -> None:
    answer = attack.carry_out(world)
    assert status(answer) == attack.answer, answer
    # One answer alone: nothing that was hidden in the request was answered, too.
    assert answer.count(b"HTTP/1.") == 1, answer
    assert b"Traceback" not in answer
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


@pytest.mark.parametrize("name", ["key", "secret", "rsa", "ec"])
def test_what_is_attacked_is_open_to_the_good_credential(world: World, name: str) -> None:
    good = KEY if name == "key" else world.good_token(name)
    assert status(exchange(world.server(name), "GET", "/health", (bearer(good),))) == 200


def test_what_guards_addresses_and_origins_lets_the_good_ones_in(world: World) -> None:
    proxied = (bearer(KEY), b"X-Forwarded-For: 9.9.9.9, 10.1.1.1")
    assert status(exchange(world.server("proxied"), "GET", "/health", proxied)) == 200
    origin = (bearer(KEY), b"Origin: https://good.example")
    answer = exchange(world.server("origin"), "WS", "/ws/audio/any", origin)
    assert status(answer) == 101
    mine, _, _ = world.sessions
    own = (bearer(mine["token"]),)
    path = f"/session/{mine['session_id']}"
    assert status(exchange(world.server("key"), "GET", path, own)) == 200


def test_every_test_that_the_docs_name_is_there() -> None:
    text = DOCS.read_text("utf-8")
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", text))
    rows = [line for line in text.splitlines() if line.startswith("|") and line.count("|") > 3]
    assert len(rows) > 20
    # A row without a test is a promise that is not checked.
    assert [row for row in rows[2:] if not re.search(r"`test_\w+` \|$", row)] == []
    files = Path(__file__).parents[1].rglob("test_*.py")
    there = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}
    assert named - there == set()


def test_the_docs_list_exactly_what_is_tried() -> None:
    rows = [line for line in DOCS.read_text("utf-8").splitlines() if line.startswith("|")]
    cells = [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows]
    # The rows about valid use have more columns, and a test of their own.
    pairs = [row for row in cells if len(row) == 2]
    written = [row for row in pairs if row != ("attack", "answer") and set(row) != {"---"}]
    assert written == [(attack.name, str(attack.answer)) for attack in ATTACKS]
