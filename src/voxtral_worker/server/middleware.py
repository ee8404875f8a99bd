"""What every call passes on its way in: errors, origins, addresses, credentials."""

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
    WorkerError,
)
from voxtral_worker.server.access import check_address, client_address, is_allowed_origin
from voxtral_worker.server.access_log import ADDRESS, REQUEST_ID_HEADER
from voxtral_worker.server.openai.errors import error_object
from voxtral_worker.server.service import Service
from voxtral_worker.sessions.limits import Verdict

log = logging.getLogger(__name__)

SERVICE = web.AppKey("service", Service)
LIMITS = web.RequestKey("limit_headers", dict[str, str])

# Open without credentials; /metrics only by setting.
_OPEN_PATHS = frozenset({"/", "/ping", "/openapi.json"})


def limit_headers(verdict: Verdict) -> dict[str, str]:
    """The documented headers of a limited call."""
    return {
        "X-RateLimit-Limit": str(verdict.limit),
        "X-RateLimit-Remaining": str(verdict.remaining),
        "X-RateLimit-Reset": str(math.ceil(verdict.reset_s)),
    }


async def count_call(request: web.Request, what: str) -> dict[str, str]:
    """Count a limited call; its headers. Raises RateLimited when it is one too many."""
    limit = request.app[SERVICE].address_limits.of_path(request.path)
    if limit is None:
        return {}
    verdict = await limit.take(request[ADDRESS])
    request[LIMITS] = limit_headers(verdict)
    if not verdict.allowed:
        raise RateLimited(
            f"over the limit of {verdict.limit} {what} per minute",
            retry_after_s=verdict.retry_after_s,
        )
    return request[LIMITS]


def is_openai(request: web.Request) -> bool:
    """Whether the caller expects OpenAI's shapes."""
    return request.path.startswith("/v1/")


def error_response(
    request: web.Request, error: WorkerError, headers: dict[str, str] | None = None
) -> web.Response:
    """The body and status of the contract, or of OpenAI's."""
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
    """Translate every failure into the contract's body, once."""
    try:
        return await handler(request)
    except WorkerError as error:
        metrics.refusals.labels(error.code).inc()
        return error_response(request, error, await _limits_of(request))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        told = _translate(error)
        metrics.refusals.labels(told.code).inc()
        allowed = error.headers.get(hdrs.ALLOW)
        headers = await _limits_of(request) | ({hdrs.ALLOW: allowed} if allowed else {})
        return error_response(request, told, headers)
    except Exception:  # the REST middleware: one of the named places
        log.exception("a call failed", extra={"method": request.method, "path": request.path})
        return error_response(request, EngineFailure("the worker failed to answer this call"))


async def _limits_of(request: web.Request) -> dict[str, str]:
    """The headers of a limited call that is refused for another reason, and does not count."""
    limit = request.app[SERVICE].address_limits.of_path(request.path)
    if limit is not None and LIMITS not in request and ADDRESS in request:
        request[LIMITS] = limit_headers(await limit.look(request[ADDRESS]))
    told: dict[str, str] = request.get(LIMITS, {})
    return told


def _translate(error: web.HTTPException) -> WorkerError:
    match error.status:
        case 404:
            return NotFound("there is nothing at this path")
        case 405:
            return MethodNotAllowed("this path does not take that method")
        case 413:
            return TooLarge("the body may have at most 1 MiB")
    return BadInput("the request cannot be understood")


@web.middleware
async def allow_origins(request: web.Request, handler: Handler) -> web.StreamResponse:
    """CORS: pages of allowed origins may read the answers."""
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
    """What lets the page that calls read the answer; empty where none calls, or may."""
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None or not is_allowed_origin(request, request.app[SERVICE].settings):
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
    # OpenAI's library sends headers about itself, other ones with each release.
    return request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, allowed)


@web.middleware
async def check_access(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Addresses first, then origins of sockets, then credentials."""
    service = request.app[SERVICE]
    settings = service.settings
    address = client_address(request, settings.trusted_proxies)
    request[ADDRESS] = address
    if request.path != "/ping":
        check_address(address, settings)
    is_socket = request.path.startswith("/ws/") or request.path == "/v1/realtime"
    if is_socket and not is_allowed_origin(request, settings):
        raise Forbidden("pages of this origin may not use the API")
    if not _is_open(request):
        session_id = request.match_info.get("session_id")
        is_good = service.credentials.check(request, session_id)
        if not is_good and not await service.exists(session_id or ""):
            raise Unauthorized("this token's session is over")
    return await handler(request)


def _is_open(request: web.Request) -> bool:
    if request.path == "/metrics":
        return request.app[SERVICE].settings.metrics_public
    return request.path in _OPEN_PATHS or request.path.startswith("/console/")
