"""The access log: one line for each call, refusal and socket, with the id of the request."""

import logging
import re
import uuid

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from voxtral_worker.logs import about, hide_session_ids, session_mark
from voxtral_worker.server.connection import Connection

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = "X-Request-Id"
ADDRESS = web.RequestKey("client_address", str)
CONNECTION = web.RequestKey("connection", Connection)
_REQUEST_ID = web.RequestKey("request_id", str)
_SESSION = web.RequestKey("session_mark", str)

# A request id that a client may choose: no character that could forge a log line or a header.
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
# Longest path that is logged.
_MOST_CHARACTERS = 200
# Machines call these every few seconds. They are logged at DEBUG level.
_QUIET_PATHS = frozenset({"/ping", "/metrics"})


def request_id_of(request: web.Request) -> str:
    """The id of a request: the client's own if it is a sane one, else a new one.

    Each call of this function returns the same id for the same request.
    """
    if _REQUEST_ID not in request:
        given = request.headers.get(REQUEST_ID_HEADER, "")
        request[_REQUEST_ID] = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
    return request[_REQUEST_ID]


@web.middleware
async def name_lines(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Add the request's id, and the mark of the session in its path, to all its log lines."""
    session_id = request.match_info.get("session_id")
    if session_id is not None:
        request[_SESSION] = session_mark(session_id)
    with about(**_ids(request)):
        return await handler(request)


async def tell_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """Put the request's id into the headers of the answer."""
    response.headers[REQUEST_ID_HEADER] = request_id_of(request)


def log_opening(request: web.Request) -> None:
    """Log that a socket was opened. Its access line comes only when it is closed."""
    log.info("socket opened", extra={"path": shown_path(request), "client": request[ADDRESS]})


class AccessLog(AbstractAccessLogger):
    """Logs each answer. aiohttp calls it, also for data that is not a valid request.

    The query of an address is not logged: it may contain a token.
    """

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Log one answer; `time` is how long it took, in seconds."""
        fields: dict[str, object] = {"method": request.method[:20], "path": shown_path(request)}
        if isinstance(request, web.Request):
            fields |= _ids(request)
        connection = request.get(CONNECTION)
        if connection is None:
            fields |= {"status": response.status, "bytes_sent": response.body_length}
        else:
            fields |= {
                "close_code": connection.close_code,
                "bytes_received": connection.received_bytes,
                "bytes_sent": connection.sent_bytes,
            }
        fields["duration_ms"] = round(time * 1000, 1)
        fields["client"] = request.get(ADDRESS, request.remote)
        level = logging.DEBUG if request.path in _QUIET_PATHS else logging.INFO
        log.log(level, "access", extra=fields)

    @property
    def enabled(self) -> bool:
        """Whether to log at all. aiohttp asks once for each connection."""
        return log.isEnabledFor(logging.INFO)


def is_no_noise(record: logging.LogRecord) -> bool:
    """A filter for aiohttp's own log: drops tracebacks of data that is not HTTP.

    Such data has its access line already.
    """
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


def _ids(request: web.Request) -> dict[str, str]:
    ids = {"request_id": request_id_of(request)}
    return {**ids, "session": request[_SESSION]} if _SESSION in request else ids


def shown_path(request: web.BaseRequest) -> str:
    """The path as the log shows it: cut to 200 characters, with session ids hidden."""
    return hide_session_ids(request.path)[:_MOST_CHARACTERS]
