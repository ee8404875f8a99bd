"""Reads the bodies of OpenAI's calls, which may be larger than those of other REST calls."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from voxtral_worker.audio.aside import run_aside
from voxtral_worker.errors import AtCapacity, BadInput, TooLarge, shown
from voxtral_worker.json_text import read_json
from voxtral_worker.server.openai.errors import BadOption

T = TypeVar("T")

MAX_BODY_BYTES = 25 << 20
# Together 400 MiB. A JSON body is held until its audio is decoded, a form until it is answered.
BODIES_AT_ONCE = 16
# The limit of all other REST calls. A body of this size needs no place.
SMALL_BODY_BYTES = 1 << 20
READ_TIMEOUT_S = 60.0
MAX_PARTS = 64
MAX_FIELD_BYTES = 64 << 10
# A body without audio is text, and no text of this size fits into the context.
MAX_TEXT_BODY_BYTES = 4 << 20
# A larger body is parsed in a thread, so that the event loop is not blocked.
PARSED_AT_ONCE_BYTES = 64 << 10


class Bodies:
    """Holds a few large bodies at a time. A call that gets no place within a minute is refused."""

    def __init__(self, places: int = BODIES_AT_ONCE, timeout_s: float = READ_TIMEOUT_S) -> None:
        self._places = asyncio.Semaphore(places)
        self._timeout_s = timeout_s

    @contextlib.asynccontextmanager
    async def place(self, size: int | None = None) -> AsyncIterator[None]:
        """Hold a place for one body; a small one needs none. Raises AtCapacity."""
        if size is not None and size <= SMALL_BODY_BYTES:
            yield
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._places.acquire()
        except TimeoutError:
            raise AtCapacity("too many calls are being read", retry_after_s=1) from None
        try:
            yield
        finally:
            self._places.release()


@dataclass(frozen=True)
class Form:
    """A multipart form: its fields in order, and its file."""

    fields: tuple[tuple[str, str], ...]
    file: bytes | None


async def read_json_as(request: web.Request, read: Callable[[dict[str, Any]], T]) -> T:
    """Parse the body and return what `read` makes of it.

    Raises BadInput, TooLarge beyond 25 MiB (4 MiB without audio), and what `read` raises. A large
    body is parsed in a thread, because all live audio waits for the event loop.
    """
    with _in_time():
        async with asyncio.timeout(READ_TIMEOUT_S):
            data = await _limited(request).read()
    if len(data) > MAX_TEXT_BODY_BYTES and b"audio" not in data:
        raise TooLarge(f"a body without audio may have at most {MAX_TEXT_BODY_BYTES >> 20} MiB")
    if len(data) <= PARSED_AT_ONCE_BYTES:
        return read(_parsed(data))
    return await run_aside(lambda _: read(_parsed(data)))


def _parsed(data: bytes) -> dict[str, Any]:
    value = read_json(data, "the body")
    if not isinstance(value, dict):
        told = f"body is {shown(value)}, but must be an object"
        raise BadOption("body", told, "invalid_value")
    return value


async def read_form(request: web.Request) -> Form:
    """Read a multipart form. Raises BadInput, or TooLarge beyond 25 MiB."""
    if not request.content_type.startswith("multipart/form-data"):
        raise BadInput("the body must be multipart/form-data")
    with _in_time():
        async with asyncio.timeout(READ_TIMEOUT_S):
            try:
                return await _read_parts(_limited(request))
            except (ValueError, RuntimeError, LookupError, HttpProcessingError):
                raise BadInput("the multipart body cannot be read") from None


async def _read_parts(request: web.Request) -> Form:
    fields: list[tuple[str, str]] = []
    file: bytes | None = None
    left = MAX_BODY_BYTES
    parts = 0
    async for part in await request.multipart():
        # Parts that are buffered are parsed without waiting. Let other tasks run between them.
        await asyncio.sleep(0)
        parts += 1
        if parts > MAX_PARTS:
            raise BadOption(None, f"the form has more than {MAX_PARTS} parts")
        if not isinstance(part, BodyPartReader) or part.name is None:
            raise BadInput("the body holds a part without a name")
        is_file = part.name == "file"
        if is_file and file is not None:
            raise BadOption("file", "the form has more than one file")
        data = await _read_part(part, left if is_file else min(left, MAX_FIELD_BYTES))
        left -= len(data)
        if is_file:
            file = data
        else:
            fields.append((part.name, _text_of(part.name, data)))
    return Form(tuple(fields), file)


def _text_of(name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadOption(name, f"{name[:60]!a} is no text; a recording goes into file") from None


async def _read_part(part: BodyPartReader, most: int) -> bytes:
    data = bytearray()
    while chunk := await part.read_chunk(1 << 16):
        data += chunk
        if len(data) > most:
            raise _too_large()
    return bytes(data)


def _limited(request: web.Request) -> web.Request:
    """The same request with the limit of these calls for its body."""
    if (request.content_length or 0) > MAX_BODY_BYTES + MAX_FIELD_BYTES:
        raise _too_large()
    return request.clone(client_max_size=MAX_BODY_BYTES)


@contextlib.contextmanager
def _in_time() -> Any:
    try:
        yield
    except web.HTTPRequestEntityTooLarge:
        raise _too_large() from None
    except TimeoutError:
        raise BadInput(f"the body did not come within {READ_TIMEOUT_S:g} s") from None


def _too_large() -> TooLarge:
    return TooLarge(f"the body may have at most {MAX_BODY_BYTES >> 20} MiB")
