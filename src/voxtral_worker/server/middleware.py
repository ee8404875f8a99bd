"""What every call passes on its way in: error bodies, CORS, addresses and credentials."""

import dataclasses
import json
import logging
import math

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from voxtral_worker import metrics
from voxtral_worker.errors import (
    BadInput,
    EngineFailure,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    RateLimited,
    TooLarge,
    Unauthorized,
    UnsupportedEncoding,
    WorkerError,
    WrongCredentials,
)
from voxtral_worker.server.access_log import ADDRESS, REQUEST_ID_HEADER, shown_path
from voxtral_worker.server.gate.access import Caller, check_address, counted_as, is_allowed_origin
from voxtral_worker.server.openai.errors import error_object
from voxtral_worker.server.service import Service
from voxtral_worker.sessions.limits import Verdict

log = logging.getLogger(__name__)

SERVICE = web.AppKey("service", Service)
LIMITS = web.RequestKey("limit_headers", dict[str, str])
CALLER = web.RequestKey("caller", Caller)
# Whether the call comes from this machine itself.
IS_LOCAL = web.RequestKey("is_local", bool)
# The session in the path. If it belongs to another caller, `NO_SESSION`, which is the id of no
# session: every handler then answers as if the session did not exist.
SESSION_ID = web.RequestKey("asked_session_id", str)
NO_SESSION = ""

# Not a status of HTTP. nginx logs this one when a client leaves before the answer.
CLIENT_HAS_LEFT = 499

# These need no credentials. /metrics needs none if METRICS_PUBLIC is set.
_OPEN_PATHS = frozenset({"/", "/docs", "/ping", "/openapi.json", "/asyncapi.json"})
_OPEN_FOLDERS = ("/console/", "/client/")


def limit_headers(verdict: Verdict) -> dict[str, str]:
    """The documented headers of a call that has a limit."""
    return {
        "X-RateLimit-Limit": str(verdict.limit),
        "X-RateLimit-Remaining": str(verdict.remaining),
        "X-RateLimit-Reset": str(math.ceil(verdict.reset_s)),
    }


async def count_call(request: web.Request) -> dict[str, str]:
    """Count a call against the limits of its path. Returns the headers of the last limit.

    Raises RateLimited if it is over a limit.
    """
    for limit in request.app[SERVICE].address_limits.of_path(request.path):
        is_spared = limit.spares_this_machine and request[IS_LOCAL]
        verdict = await (limit.look if is_spared else limit.take)(request[ADDRESS])
        request[LIMITS] = limit_headers(verdict)
        if not verdict.allowed and not is_spared:
            raise RateLimited(
                f"over the limit of {verdict.limit} {limit.name} per minute",
                retry_after_s=verdict.retry_after_s,
            )
    told: dict[str, str] = request.get(LIMITS, {})
    return told


def is_openai(request: web.Request) -> bool:
    """Whether the path is one of OpenAI's API, whose errors have another shape."""
    return request.path == "/v1" or request.path.startswith("/v1/")


def error_response(
    request: web.Request, error: WorkerError, headers: dict[str, str] | None = None
) -> web.Response:
    """The response for an error: in the documented shape, or in OpenAI's under /v1."""
    body = {"error": error.message, "code": error.code}
    response = web.Response(
        text=json.dumps({"error": error_object(error)} if is_openai(request) else body),
        status=error.http_status,
        content_type="application/json",
        headers=headers,
    )
    if error.retry_after_s is not None:
        response.headers.setdefault(hdrs.RETRY_AFTER, str(max(1, math.ceil(error.retry_after_s))))
    if error.http_status == 401:
        response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    return response


@web.middleware
async def tell_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every exception into an error response. No other place does this for REST."""
    try:
        return await handler(request)
    except WorkerError as error:
        metrics.refusals.labels(error.code).inc()
        return error_response(request, error, await limits_of(request))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        told = _translate(error, request)
        metrics.refusals.labels(told.code).inc()
        allowed = error.headers.get(hdrs.ALLOW)
        headers = await limits_of(request) | ({hdrs.ALLOW: allowed} if allowed else {})
        return error_response(request, told, headers)
    except Exception as error:  # the REST edge: a bug must not end as a bare 500
        if isinstance(error, ConnectionError) and _has_left(request):
            # The client has left, so no one reads this answer. The access log shows its status.
            return web.Response(status=CLIENT_HAS_LEFT)
        log.exception(
            "a call failed", extra={"method": request.method, "path": shown_path(request)}
        )
        return error_response(request, EngineFailure("the worker failed to answer this call"))


async def limits_of(request: web.Request) -> dict[str, str]:
    """The limit headers of a call that was refused for another reason, and is not counted."""
    limits = request.app[SERVICE].address_limits.of_path(request.path)
    if limits and LIMITS not in request and ADDRESS in request:
        request[LIMITS] = limit_headers(await limits[-1].look(request[ADDRESS]))
    told: dict[str, str] = request.get(LIMITS, {})
    return told


def _has_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _translate(error: web.HTTPException, request: web.Request) -> WorkerError:
    match error.status:
        case 404 if is_openai(request):
            path = request.path if len(request.path) <= 60 else request.path[:57] + "..."
            return NotFound(f"this worker has no {path!a}; it has {', '.join(_calls(request.app))}")
        case 404:
            return NotFound("there is nothing at this path")
        case 405:
            return MethodNotAllowed("this path does not take that method")
        case 413:
            return TooLarge("the body may have at most 1 MiB")
    return BadInput("the request cannot be understood")


def _calls(app: web.Application) -> list[str]:
    """The calls of OpenAI's API that this worker has."""
    routes = [route for route in app.router.routes() if route.method != hdrs.METH_HEAD]
    named = [(route.method, route.resource.canonical) for route in routes if route.resource]
    return [f"{method} {path}" for method, path in named if path.startswith("/v1/")]


@web.middleware
async def allow_origins(request: web.Request, handler: Handler) -> web.StreamResponse:
    """CORS: let pages of allowed origins read the answers."""
    if hdrs.ORIGIN not in request.headers:
        return await handler(request)
    is_preflight = (
        request.method == hdrs.METH_OPTIONS
        and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    )
    headers = origin_headers(request)
    response: web.StreamResponse
    if is_preflight:
        response = web.Response(status=204 if headers else 403)
    else:
        response = await handler(request)
    if headers and not response.prepared:
        response.headers.update(headers)
        if is_preflight:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = "GET, POST, DELETE"
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = _allowed_headers(request)
            response.headers[hdrs.ACCESS_CONTROL_MAX_AGE] = "600"
    return response


def origin_headers(request: web.Request) -> dict[str, str]:
    """The CORS headers that let a page read the answer.

    Empty if the caller is not a page, or a page of an origin that is not allowed.
    """
    origin = request.headers.get(hdrs.ORIGIN)
    allowed = request.app[SERVICE].settings.allowed_origins
    if origin is None or not is_allowed_origin(request, allowed):
        return {}
    return {
        hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: origin,
        hdrs.VARY: hdrs.ORIGIN,
        hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: (
            "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, Retry-After, "
            + REQUEST_ID_HEADER
        ),
    }


def _allowed_headers(request: web.Request) -> str:
    allowed = "Content-Type, Authorization, X-API-Key, " + REQUEST_ID_HEADER
    if not is_openai(request):
        return allowed
    # OpenAI's libraries send headers about themselves, and new ones with each release: allow all.
    return request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, allowed)


@web.middleware
async def refuse_compressed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse compressed bodies: a small one may become very large."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() != "identity":
        raise UnsupportedEncoding("bodies must not be compressed: send no Content-Encoding")
    return await handler(request)


@web.middleware
async def check_access(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Check the address, then a socket's origin, then credentials, then the session's owner."""
    service = request.app[SERVICE]
    settings = service.settings
    address = service.client_addresses.of(request)
    request[ADDRESS] = address
    request[IS_LOCAL] = service.client_addresses.is_local(request)
    if request.path != "/ping":
        check_address(address, settings.allowed_ips)
    is_socket = request.path.startswith("/ws/") or request.path == "/v1/realtime"
    if is_socket and not is_allowed_origin(request, settings.allowed_origins):
        raise Forbidden("pages of this origin may not use the API")
    caller = Caller() if _is_open(request) else _caller_of(request)
    if caller.token_of is not None and not await service.exists(caller.token_of):
        raise Unauthorized("this token's session is over")
    request[CALLER] = dataclasses.replace(caller, holder=_holder_of(request, caller))
    session_id = request.match_info.get("session_id")
    if session_id is not None:
        is_open = await service.is_open_to(session_id, caller)
        request[SESSION_ID] = session_id if is_open else NO_SESSION
    return await handler(request)


def _caller_of(request: web.Request) -> Caller:
    """The caller. Raises Unauthorized, Forbidden, or RateLimited after too many guesses."""
    service = request.app[SERVICE]
    session_id = request.match_info.get("session_id")
    if not service.credentials.are_needed or request[IS_LOCAL]:
        return service.credentials.check(request, session_id)
    # Before the check, so that an attacker who is over the limit learns nothing about its guess.
    service.address_limits.require_few_failures(request[ADDRESS])
    try:
        return service.credentials.check(request, session_id)
    except WrongCredentials:
        service.address_limits.note_failure(request[ADDRESS])
        raise


def _holder_of(request: web.Request, caller: Caller) -> str | None:
    """The name under which sessions of this call are counted; None: they are not counted."""
    if caller.subject is not None:
        return f"subject {caller.subject}"
    return None if request[IS_LOCAL] else counted_as(request[ADDRESS])


def _is_open(request: web.Request) -> bool:
    if request.path == "/metrics":
        return request.app[SERVICE].settings.metrics_public
    return request.path in _OPEN_PATHS or request.path.startswith(_OPEN_FOLDERS)
