"""The REST calls as documented, and as the contract adds to them."""

import io
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientSession

from tests.support.ports import free_port
from tests.support.running_server import LOOPBACK, RunningServer
from tests.support.talker import create, talk
from voxtral_worker.sessions.admission import Admission
from voxtral_worker.sessions.config import SessionConfig

Start = Callable[..., RunningServer]


async def call(method: str, url: str, **options: Any) -> tuple[int, Any, Any]:
    async with ClientSession() as http, http.request(method, url, **options) as response:
        is_json = response.content_type == "application/json"
        body = await response.json() if is_json else await response.text()
        return response.status, body, response.headers


async def test_health_has_the_documented_fields(server: RunningServer) -> None:
    status, body, _ = await call("GET", f"{server.url}/health")
    assert status == 200
    assert body["status"] == "healthy"
    assert set(body["system"]) == {"cpu_percent", "memory_percent", "disk_usage"}
    assert set(body["gpu"]) == {
        "gpu_count",
        "gpu_memory",
        "gpu_memory_allocated",
        "gpu_memory_cached",
    }
    assert body["active_sessions"] == body["queue_size"] == 0
    assert body["model"]["ready"] is True
    assert body["model"]["window_tail"] == "exact"
    assert body["model"]["tail_checked"] is False
    assert body["capacity"] == {"max_sessions": 50, "available": 50}


async def test_a_loading_worker_says_204_and_refuses_sessions(start_server: Start) -> None:
    server = start_server(ready=False)
    assert (await call("GET", f"{server.url}/ping"))[0] == 204
    assert (await call("GET", f"{server.url}/health"))[1]["status"] == "starting"
    status, body, headers = await call("POST", f"{server.url}/session/create")
    assert (status, body["code"]) == (503, "NOT_READY")
    assert int(headers["Retry-After"]) > 0
    server.become_ready()
    assert (await call("GET", f"{server.url}/ping"))[0] == 200


async def test_health_has_the_steps_of_the_start_until_the_worker_is_ready(
    start_server: Start,
) -> None:
    server = start_server(ready=False)

    async def loading() -> Any:
        return (await call("GET", f"{server.url}/health"))[1]["loading"]

    assert await loading() == {"step": None, "since_s": 0, "download": None, "done": []}
    server.thread.end_step("server", 0.123)
    server.thread.begin_step("model")
    server.thread.note_download(4_000, 9_000)
    seen = await loading()
    assert seen["step"] == "model"
    assert 0 <= seen["since_s"] < 60
    assert seen["download"] == {"bytes": 4_000, "total_bytes": 9_000}
    assert seen["done"] == [{"step": "server", "took_s": 0.12}]
    server.thread.end_step("model", 7.0)
    seen = await loading()
    assert (seen["step"], seen["download"]) == (None, None)
    assert seen["done"][1:] == [{"step": "model", "took_s": 7.0}]
    server.become_ready()
    assert await loading() is None


async def test_a_worker_that_failed_says_503(start_server: Start) -> None:
    server = start_server(ready=False)
    server.thread.fail()
    assert (await call("GET", f"{server.url}/ping"))[0] == 503
    assert (await call("GET", f"{server.url}/health"))[0] == 503


async def test_a_dead_engine_makes_the_worker_unhealthy(server: RunningServer) -> None:
    server.engine.is_healthy = False
    assert (await call("GET", f"{server.url}/ping"))[0] == 503
    assert (await call("GET", f"{server.url}/health"))[1]["status"] == "unhealthy"


async def test_ping_is_also_on_the_health_port(start_server: Start) -> None:
    port = free_port()
    start_server(port_health=port)
    assert (await call("GET", f"http://127.0.0.1:{port}/ping"))[0] == 200
    assert (await call("GET", f"http://127.0.0.1:{port}/health"))[0] == 404


async def test_a_session_is_created_seen_and_deleted(server: RunningServer) -> None:
    headers = {"Content-Type": "application/json"}
    status, created, _ = await call("POST", f"{server.url}/session/create", headers=headers)
    assert (status, created["status"]) == (200, "created")
    session_id = created["session_id"]
    assert created["websocket_url"] == f"/ws/audio/{session_id}"
    assert created["expires_in"] == 300
    assert "token" not in created
    status, seen, _ = await call("GET", f"{server.url}/session/{session_id}")
    assert (status, seen["config"]) == (200, created["config"])
    status, deleted, _ = await call("DELETE", f"{server.url}/session/{session_id}")
    assert (status, deleted) == (200, {"status": "deleted", "session_id": session_id})
    for method in ("GET", "DELETE"):
        status, body, _ = await call(method, f"{server.url}/session/{session_id}")
        assert (status, body["code"]) == (404, "SESSION_NOT_FOUND")


async def test_a_session_starts_with_the_config_of_the_body(server: RunningServer) -> None:
    body = {"config": {"mode": "transcribe", "silence_ms": 300}}
    _, created, _ = await call("POST", f"{server.url}/session/create", json=body)
    assert created["config"]["mode"] == "transcribe"
    assert created["config"]["silence_ms"] == 300
    assert created["config"]["temperature"] == 0.2


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"{", "not JSON"),
        (b"[]", "object"),
        (b'{"cfg": {}}', "cfg"),
        (b'{"config": 3}', "config"),
        (b'{"config": {"loud": 1}}', "loud"),
        (b'{"config": {"silence_ms": 5}}', "100 to 3000"),
    ],
)
async def test_a_bad_body_is_told_what_is_wrong(
    server: RunningServer, body: bytes, named: str
) -> None:
    status, answer, _ = await call("POST", f"{server.url}/session/create", data=body)
    assert (status, answer["code"]) == (400, "INVALID_REQUEST")
    assert named in answer["error"]


async def test_a_body_over_a_mebibyte_is_too_large(server: RunningServer) -> None:
    data = io.BytesIO(b" " * (1 << 20) + b"{}")
    status, answer, _ = await call("POST", f"{server.url}/session/create", data=data)
    assert (status, answer["code"]) == (413, "PAYLOAD_TOO_LARGE")


async def test_unknown_paths_and_verbs_are_told_as_such(server: RunningServer) -> None:
    status, body, _ = await call("GET", f"{server.url}/nothing")
    assert (status, body["code"]) == (404, "NOT_FOUND")
    status, body, headers = await call("PUT", f"{server.url}/session/create")
    assert (status, body["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert "POST" in headers["Allow"]


async def test_a_full_worker_refuses_with_a_time_to_come_back(start_server: Start) -> None:
    server = start_server(max_sessions=1)
    assert (await call("POST", f"{server.url}/session/create"))[0] == 200
    status, body, headers = await call("POST", f"{server.url}/session/create")
    assert (status, body["code"]) == (503, "AT_CAPACITY")
    assert int(headers["Retry-After"]) > 0


async def test_sessions_per_minute_are_limited_with_headers(start_server: Start) -> None:
    server = start_server(rate_limit_enabled=True, trusted_proxies=LOOPBACK)
    for left in (4, 3, 2, 1, 0):
        status, _, headers = await call("POST", f"{server.url}/session/create")
        assert status == 200
        assert headers["X-RateLimit-Limit"] == "5"
        assert headers["X-RateLimit-Remaining"] == str(left)
    status, body, headers = await call("POST", f"{server.url}/session/create")
    assert (status, body["code"]) == (429, "RATE_LIMITED")
    assert headers["X-RateLimit-Remaining"] == "0"
    assert 0 < int(headers["Retry-After"]) <= 60
    assert int(headers["X-RateLimit-Reset"]) > 1_600_000_000


async def test_metrics_are_documented_ones_without_labels(server: RunningServer) -> None:
    await call("GET", f"{server.url}/health")
    status, text, headers = await call("GET", f"{server.url}/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert "# TYPE websocket_connections_total counter" in text
    assert "# HELP websocket_connections_active Active WebSocket connections" in text
    assert 'audio_processing_duration_seconds_bucket{le="0.005"}' in text


async def test_the_description_names_every_rest_path(server: RunningServer) -> None:
    status, description, _ = await call("GET", f"{server.url}/openapi.json")
    assert status == 200
    assert description["openapi"].startswith("3.1")
    assert {"/ping", "/health", "/metrics", "/session/create", "/session/{session_id}"} <= set(
        description["paths"]
    )


async def test_the_console_is_served(server: RunningServer) -> None:
    status, page, headers = await call("GET", f"{server.url}/")
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    assert "<!doctype html>" in page.lower()


async def test_a_page_of_another_origin_may_create_a_session(server: RunningServer) -> None:
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    status, _, headers = await call("OPTIONS", f"{server.url}/session/create", headers=asked)
    assert status == 204
    assert headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert "Content-Type" in headers["Access-Control-Allow-Headers"]


async def test_a_page_of_a_foreign_origin_is_not_let_in(start_server: Start) -> None:
    server = start_server(allowed_origins=("https://app.example",))
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    status, _, headers = await call("OPTIONS", f"{server.url}/session/create", headers=asked)
    assert status == 403
    assert "Access-Control-Allow-Origin" not in headers
    with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
        async with ClientSession() as http:
            await http.ws_connect(f"{server.url}/ws/audio/x", headers=asked)


async def test_a_plain_get_on_a_socket_path_is_told_to_upgrade(server: RunningServer) -> None:
    status, body, _ = await call("GET", f"{server.url}/ws/audio/x")
    assert (status, body["code"]) == (400, "INVALID_REQUEST")


async def test_a_failure_of_ours_shows_no_traceback(server: RunningServer) -> None:
    async def break_it() -> None:
        server.thread.service.sessions.registry = None  # type: ignore[assignment]

    server.thread.call(break_it())
    status, body, _ = await call("GET", f"{server.url}/session/x")
    assert (status, body["code"]) == (500, "PROCESSING_ERROR")
    assert "Traceback" not in str(body)
    async with ClientSession() as http, http.get(f"{server.url}/ping") as response:
        assert response.status == 200
    from voxtral_worker.sessions.registry import Registry

    async def mend_it() -> None:
        server.thread.service.sessions.registry = Registry(1, 1.0)

    server.thread.call(mend_it())


async def test_a_call_refused_for_another_reason_tells_its_limit_and_does_not_count(
    start_server: Start,
) -> None:
    server = start_server(rate_limit_enabled=True, max_sessions=1, trusted_proxies=LOOPBACK)
    assert (await call("POST", f"{server.url}/session/create"))[0] == 200
    for status, data in ((503, b""), (400, b"{"), (503, b"")):
        answered, _, headers = await call("POST", f"{server.url}/session/create", data=data)
        assert answered == status
        assert headers["X-RateLimit-Remaining"] == "4"


@pytest.mark.parametrize("path", ["/", "/health", "/nowhere", "/session/none", "/v1/models"])
async def test_no_answer_names_the_libraries_behind_it(server: RunningServer, path: str) -> None:
    _, _, headers = await call("GET", server.url + path)
    assert headers["Server"] == "voxtral-worker"


async def test_every_option_of_a_session_is_described_with_its_default(
    server: RunningServer,
) -> None:
    _, described, _ = await call("GET", f"{server.url}/openapi.json")
    options = described["components"]["schemas"]["SessionConfig"]["properties"]
    assert {
        name: option["default"] for name, option in options.items()
    } == SessionConfig().as_dict()


@pytest.mark.parametrize(("is_ready", "is_offered"), [(True, False), (False, True)])
async def test_a_worker_does_not_offer_what_it_has_no_model_or_voice_for(
    start_server: Start, is_ready: bool, is_offered: bool
) -> None:
    server = start_server(ready=is_ready)
    _, described, _ = await call("GET", f"{server.url}/openapi.json")
    options = described["components"]["schemas"]["SessionConfig"]["properties"]
    assert ("semantic" in options["turn_detection"]["enum"]) == is_offered
    assert ("string" in options["voice"]["type"]) == is_offered


PAGES = ["/", "/docs", "/console/index.html", "/client/voxtral.js", "/client/voxtral.d.ts"]


@pytest.mark.parametrize("path", PAGES)
async def test_the_pages_and_the_client_need_no_key_and_other_origins_may_import_it(
    start_server: Start, path: str
) -> None:
    server = start_server(api_keys=("open-sesame",))
    headers = {"Origin": "http://elsewhere.test"}
    status, _, headers = await call("GET", f"{server.url}{path}", headers=headers)
    assert (status, headers["Access-Control-Allow-Origin"]) == (200, "http://elsewhere.test")


@pytest.mark.parametrize("path", PAGES)
async def test_a_browser_asks_anew_for_the_console(server: RunningServer, path: str) -> None:
    status, _, headers = await call("GET", f"{server.url}{path}")
    assert (status, headers["Cache-Control"]) == (200, "no-cache")
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    again = {"If-None-Match": headers["ETag"]}
    status, _, headers = await call("GET", f"{server.url}{path}", headers=again)
    assert (status, headers["Cache-Control"]) == (304, "no-cache")


async def test_newcomers_are_refused_while_as_many_talk_as_can_be_answered_in_time(
    start_server: Start,
) -> None:
    server = start_server(ready=False)
    server.become_ready(Admission(2, goal_ms=250))
    sessions = [(await create(server.url))["session_id"] for _ in range(2)]
    _, health, _ = await call("GET", f"{server.url}/health")
    assert health["capacity"] == {"max_sessions": 50, "available": 0}
    status, body, headers = await call("POST", f"{server.url}/session/create")
    assert (status, body["code"], headers["Retry-After"]) == (503, "AT_CAPACITY", "2")
    # Existing sessions may continue to talk.
    async with talk(server, sessions[0]) as talker:
        await talker.text("hello")
        await talker.until("text_response")
    await call("DELETE", f"{server.url}/session/{sessions[0]}")
    await create(server.url)


async def test_newcomers_are_refused_while_answers_are_late(start_server: Start) -> None:
    server = start_server(ready=False)
    server.become_ready(Admission(40, goal_ms=0.0))
    async with talk(server) as talker:
        for _ in range(12):
            await talker.text("hello")
            await talker.until("text_response")
    status, body, _ = await call("POST", f"{server.url}/session/create")
    assert (status, body["code"]) == (503, "AT_CAPACITY")
    assert "at the moment" in body["error"]
