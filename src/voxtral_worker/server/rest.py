"""The REST calls."""

import json
from typing import Any

from aiohttp import web

from voxtral_worker import metrics
from voxtral_worker.errors import BadInput
from voxtral_worker.server.health import health, is_healthy
from voxtral_worker.server.middleware import SERVICE, count_call
from voxtral_worker.server.openapi import DESCRIPTION
from voxtral_worker.server.service import CLOSE_DONE, Phase
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.record import SessionRecord

_PING_STATUS = {Phase.READY: 200, Phase.STARTING: 204}


async def ping(request: web.Request) -> web.Response:
    """200 ready, 204 loading, 503 draining or failed."""
    return web.Response(status=_PING_STATUS.get(request.app[SERVICE].phase, 503))


async def get_health(request: web.Request) -> web.Response:
    """The state of the worker."""
    service = request.app[SERVICE]
    return web.json_response(health(service), status=200 if is_healthy(service) else 503)


async def get_metrics(_: web.Request) -> web.Response:
    """Prometheus' text format."""
    return web.Response(
        body=metrics.exposition(), headers={"Content-Type": metrics.EXPOSITION_TYPE}
    )


async def get_openapi(_: web.Request) -> web.Response:
    """OpenAPI 3.1 of these calls."""
    return web.json_response(DESCRIPTION)


async def create_session(request: web.Request) -> web.Response:
    """A new session, with the config of the body if there is one."""
    service = request.app[SERVICE]
    service.require_ready()
    config = await _config_of(request)
    service.registry.require_room()
    headers = await count_call(request, "sessions")
    session = service.create(config)
    await service.publish(session.session_id)
    answer = {
        "session_id": session.session_id,
        "status": "created",
        "websocket_url": f"/ws/audio/{session.session_id}",
        "control_url": f"/ws/control/{session.session_id}",
        "expires_in": service.settings.session_idle_timeout_seconds,
        "config": session.config.as_dict(),
    }
    if service.credentials.are_needed:
        answer["token"] = service.credentials.issue(session.session_id)
    return web.json_response(answer, headers=headers)


async def get_session(request: web.Request) -> web.Response:
    """Status, config and stats of a session."""
    service = request.app[SERVICE]
    session_id = request.match_info["session_id"]
    if not service.has(session_id) and (record := await service.look(session_id)) is not None:
        return web.json_response(_elsewhere(session_id, record))
    driver = service.driver(session_id)
    return web.json_response(
        {
            "session_id": driver.session.session_id,
            "status": "active",
            "config": driver.session.config.as_dict(),
            "stats": {
                **driver.session.stats(),
                "open_connections": driver.open_connections,
                "audio_bytes_received": driver.session.audio_bytes_received,
            },
        }
    )


async def delete_session(request: web.Request) -> web.Response:
    """End a session and close its connections."""
    session_id = request.match_info["session_id"]
    await request.app[SERVICE].end(session_id, CLOSE_DONE, "session deleted")
    return web.json_response({"status": "deleted", "session_id": session_id})


def _elsewhere(session_id: str, record: SessionRecord) -> dict[str, Any]:
    """What is known of a session that another worker has, or had."""
    stats = {
        "message_count": record.message_count,
        "error_count": record.error_count,
        "queue_size": 0,
        "open_connections": 0,
        "audio_bytes_received": record.audio_bytes,
    }
    config = record.config.as_dict()
    return {"session_id": session_id, "status": "active", "config": config, "stats": stats}


async def _config_of(request: web.Request) -> SessionConfig:
    body = await request.read()
    if not body.strip():
        return SessionConfig()
    try:
        wanted = json.loads(body)
    except (ValueError, RecursionError):
        raise BadInput("the body is not JSON") from None
    if not isinstance(wanted, dict):
        raise BadInput('the body must be an object like {"config": {}}')
    unknown = wanted.keys() - {"config"}
    if unknown:
        raise BadInput(f"the body has no field {min(unknown)[:60]!a}; it may have config")
    return SessionConfig().updated(wanted.get("config", {}))
