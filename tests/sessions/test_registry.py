from typing import Any

import pytest

from voxtral_worker.errors import AtCapacity, SessionNotFound
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.leased import LeasedSession
from voxtral_worker.sessions.registry import Registry
from voxtral_worker.sessions.session import Session


def new_session(session_id: str, now_s: float = 0.0) -> Session:
    return Session(session_id, SessionConfig(), now_s)


def test_a_session_is_found_under_its_id_until_it_is_removed() -> None:
    registry: Registry[Any] = Registry(2, 300.0)
    session = new_session("a")
    registry.add(session)
    assert registry.get("a") is session
    assert registry.everyone() == [session]
    assert (registry.ids(), registry.find("a"), registry.find("b")) == (["a"], session, None)
    assert registry.remove("a") is session
    assert len(registry) == 0
    for find in (registry.get, registry.remove):
        with pytest.raises(SessionNotFound):
            find("a")


def test_no_more_sessions_than_places_and_a_removed_one_gives_its_place_back() -> None:
    registry: Registry[Any] = Registry(2, 300.0)
    registry.add(new_session("a"))
    registry.add(new_session("b"))
    with pytest.raises(AtCapacity) as refused:
        registry.add(new_session("c"))
    assert refused.value.retry_after_s is not None
    assert len(registry) == 2
    registry.remove("a")
    registry.require_room()
    registry.add(new_session("c"))
    assert {session.session_id for session in registry.everyone()} == {"b", "c"}


def test_a_session_expires_when_its_last_activity_is_as_old_as_the_timeout() -> None:
    registry: Registry[Any] = Registry(2, 300.0)
    quiet, busy = new_session("quiet", 10.0), new_session("busy", 10.0)
    registry.add(quiet)
    registry.add(busy)
    busy.last_activity_s = 200.0
    assert registry.expired(309.0) == []
    assert registry.expired(310.0) == [quiet]
    assert registry.expired(500.0) == [quiet, busy]


def test_a_lease_has_no_token_unless_the_api_asks_for_credentials() -> None:
    assert LeasedSession("a").token is None
