"""What ends sessions continues, although others end some of them at the same time."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.support.running_server import FakeEngine, RunningServer
from voxtral_worker.close_codes import CloseCode
from voxtral_worker.errors import BadInput, NotReady, SessionNotFound
from voxtral_worker.server.gate.access import Caller
from voxtral_worker.server.lifecycle import Phase
from voxtral_worker.server.native.dialect import parse_last_seq
from voxtral_worker.server.service import Service
from voxtral_worker.server.sessions import Conversation
from voxtral_worker.server.shared.takeover import Takeover
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.turns.vad import Vad

Start = Callable[..., RunningServer]


def everybody_is_quiet(service: Service) -> None:
    for conversation in service.sessions.registry.everyone():
        conversation.session.last_activity_s = time.monotonic() - 10_000


def test_sessions_that_expire_while_others_are_deleted_all_end(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def race() -> int:
        service = server.thread.service
        ids = [service.create(SessionConfig(), Caller()).session_id for _ in range(12)]
        everybody_is_quiet(service)
        # The sweep has ended the first of them, and waits.
        while len(service.sessions) == 12:
            await asyncio.sleep(0)
        for session_id in ids[6:]:
            await service.end(session_id, CloseCode.DONE, "session deleted")
        async with asyncio.timeout(30):
            while len(service.sessions):
                await asyncio.sleep(0.01)
        return len(service.sessions)

    assert server.thread.call(race()) == 0
    assert "failed" not in caplog.text


def test_a_drain_goes_on_when_clients_leave_meanwhile(server: RunningServer) -> None:
    async def race() -> int:
        service = server.thread.service
        ids = [service.create(SessionConfig(), Caller()).session_id for _ in range(6)]
        drain = asyncio.create_task(service.drain(0.0))
        while len(service.sessions) == 6:
            await asyncio.sleep(0)
        for session_id in ids[3:]:
            await service.end(session_id, CloseCode.DONE, "session deleted")
        await drain
        return len(service.sessions)

    assert server.thread.call(race()) == 0


def test_a_sweep_that_fails_is_started_again(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = server.thread.service
    registry = service.sessions.registry
    real, failures = registry.expired, list[int]()

    def fails_once(now_s: float) -> list[Conversation[Any]]:
        if not failures:
            failures.append(1)
            raise MemoryError
        return real(now_s)

    async def all_end() -> None:
        monkeypatch.setattr(registry, "expired", fails_once)
        service.create(SessionConfig(), Caller())
        everybody_is_quiet(service)
        async with asyncio.timeout(30):
            while len(service.sessions):
                await asyncio.sleep(0.05)

    server.thread.call(all_end())
    assert failures


@pytest.mark.parametrize("text", [str(2**53 + 1), "9" * 4300, "9" * 18, "-1", "1.0", "²"])
def test_a_last_seq_that_no_line_can_reach_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="last_seq"):
        parse_last_seq(text)
    assert parse_last_seq(str(2**53)) == 2**53


class SilentStore:
    """A store whose Redis does not answer."""

    async def end(self, session_id: str, *, whoever_owns_it: bool = False) -> bool | None:
        return None

    async def close(self) -> None: ...


async def test_a_delete_that_the_store_did_not_hear_is_told_to_come_again(
    server: RunningServer,
) -> None:
    service = server.thread.service

    async def delete() -> None:
        session = service.create(SessionConfig(), Caller())
        service.shared = Takeover(SilentStore(), service.sessions, 300.0)  # type: ignore[arg-type]
        for _ in range(2):
            with pytest.raises(NotReady):
                await service.delete(session.session_id)
        with pytest.raises(SessionNotFound):
            await service.delete("no id")
        assert not service.sessions.has(session.session_id)

    server.thread.call(delete())
    assert isinstance(server.engine, FakeEngine)


async def test_a_worker_whose_vad_is_gone_is_not_healthy(server: RunningServer) -> None:
    service = server.thread.service
    before = service.phase
    assert before is Phase.READY and service.parts is not None
    service.life.parts = replace(service.parts, vad=Vad())
    assert service.phase is Phase.FAILED
    async with ClientSession() as http, http.get(f"{server.url}/ping") as answer:
        assert answer.status == 503
