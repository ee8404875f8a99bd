"""The REST calls."""

import asyncio
from typing import Any

from aiohttp import web

from voxtral_worker import metrics
from voxtral_worker.errors import BadInput
from voxtral_worker.json_text import read_json
from voxtral_worker.server.asyncapi import sockets
from voxtral_worker.server.health import health, is_healthy
from voxtral_worker.server.lifecycle import Phase
from voxtral_worker.server.middleware import CALLER, SERVICE, SESSION_ID, count_call
from voxtral_worker.server.openapi import description
from voxtral_worker.server.tools import require_callable
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.record import SessionRecord

BODY_TIMEOUT_S = 10.0
_PING_STATUS = {Phase.READY: 200, Phase.STARTING: 204}


async def ping(request: web.Request) -> web.Response:
    """200 if ready, 204 while loading, 503 if draining or failed: RunPod's load balancer asks."""
    return web.Response(status=_PING_STATUS.get(request.app[SERVICE].phase, 503))


async def get_health(request: web.Request) -> web.Response:
    """The state of the worker."""
    service = request.app[SERVICE]
    return web.json_response(health(service), status=200 if is_healthy(service) else 503)


async def get_metrics(request: web.Request) -> web.Response:
    """The metrics in Prometheus' text format."""
    request.app[SERVICE].sessions.count_bytes()
    return web.Response(
        body=metrics.exposition(), headers={"Content-Type": metrics.EXPOSITION_TYPE}
    )


async def get_openapi(request: web.Request) -> web.Response:
    """The OpenAPI 3.1 description of the REST calls."""
    parts = request.app[SERVICE].parts
    # While the worker is loading, it is not known what it will have. Describe all.
    has_turn_model = parts is None or parts.completeness is not None
    has_voices = parts is None or parts.speech is not None
    described = description(has_turn_model=has_turn_model, has_voices=has_voices)
    return web.json_response(described)


async def get_asyncapi(_: web.Request) -> web.Response:
    """AsyncAPI 3.0 of the sockets."""
    return web.json_response(sockets())


async def create_session(request: web.Request) -> web.Response:
    """Create a session, with the config of the body if there is one."""
    service = request.app[SERVICE]
    parts = service.require_ready()
    config = await _config_of(request)
    # Cheap checks first: compiling the tools takes time. A call that is refused here is not counted
    # against the limit. `create` checks the room again, as it may be gone by then.
    service.require_room(request[CALLER])
    await require_callable(parts.engine, config.toolbox)
    headers = await count_call(request)
    session = service.create(config, request[CALLER]).session
    await service.shared.publish(session.session_id)
    answer = {
        **service.introduce(session.session_id),
        "status": "created",
        "config": session.config.as_dict(),
    }
    return web.json_response(answer, headers=headers)


async def get_session(request: web.Request) -> web.Response:
    """Status, config and stats of a session."""
    service = request.app[SERVICE]
    session_id = request[SESSION_ID]
    is_here = service.sessions.has(session_id)
    if not is_here and (record := await service.shared.look(session_id)) is not None:
        return web.json_response(_elsewhere(session_id, record))
    driver = service.sessions.registry.get(session_id).driver
    return web.json_response(
        {
            "session_id": driver.session.session_id,
            "status": "active",
            "config": driver.session.config.as_dict(),
            "stats": {
                **driver.session.stats(),
                "open_connections": len(driver.channels),
                "audio_bytes_received": driver.session.listening.audio_bytes_received,
                "bytes_held": driver.session.memory.bytes,
            },
        }
    )


async def delete_session(request: web.Request) -> web.Response:
    """End a session and close its connections."""
    session_id = request[SESSION_ID]
    await request.app[SERVICE].delete(session_id)
    return web.json_response({"status": "deleted", "session_id": session_id})


def _elsewhere(session_id: str, record: SessionRecord) -> dict[str, Any]:
    """What the store knows of a session that lives on another worker, or did."""
    stats = {
        "message_count": record.message_count,
        "error_count": record.error_count,
        "queue_size": 0,
        "open_connections": 0,
        "audio_bytes_received": record.audio_bytes,
        "bytes_held": 0,
    }
    config = record.config.as_dict()
    return {"session_id": session_id, "status": "active", "config": config, "stats": stats}


async def _config_of(request: web.Request) -> SessionConfig:
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await request.read()
    except TimeoutError:
        raise BadInput(f"the body did not come within {BODY_TIMEOUT_S:g} s") from None
    if not body.strip():
        return SessionConfig()
    wanted = read_json(body, "the body")
    if not isinstance(wanted, dict):
        raise BadInput('the body must be an object like {"config": {}}')
    unknown = {key for key, value in wanted.items() if value is not None} - {"config"}
    if unknown:
        raise BadInput(f"the body has no field {min(unknown)[:60]!a}; it may have config")
    config = wanted.get("config")
    return SessionConfig().updated({} if config is None else config)
