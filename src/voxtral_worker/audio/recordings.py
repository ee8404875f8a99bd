"""Limits how many whole recordings are in memory at once, and reads base64."""

import asyncio
import binascii
import contextlib
import re
import string
import threading
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

import numpy as np
from numpy.typing import NDArray

from voxtral_worker.audio.aside import run_aside
from voxtral_worker.errors import AtCapacity, BadInput

Samples: TypeAlias = NDArray[np.float32]

MAX_AUDIO_S = 30 * 60
# Half an hour of samples takes 115 MB, and several times that while it is decoded.
RECORDINGS_AT_ONCE = 4
# Includes the wait for a place at the decoder. Decoding itself may take up to 130 s.
READ_TIMEOUT_S = 180.0
# A caller that waits for a place holds its upload in memory.
MOST_WAITING = 256
PLACE_TIMEOUT_S = 60.0
_WHITE_SPACE = string.whitespace.encode()
_STANDARD_LETTERS = bytes.maketrans(b"-_", b"+/")
_LETTERS = (string.ascii_letters + string.digits + "+/").encode()


class Recordings:
    """Lets all callers together hold at most four recordings; others wait up to a minute."""

    def __init__(
        self, place_timeout_s: float = PLACE_TIMEOUT_S, most_waiting: int = MOST_WAITING
    ) -> None:
        self._places = asyncio.Semaphore(RECORDINGS_AT_ONCE)
        self._place_timeout_s = place_timeout_s
        self._most_waiting = most_waiting
        self._waiting = 0

    @contextlib.asynccontextmanager
    async def opened(
        self, field: str, read: Callable[[threading.Event], Samples]
    ) -> AsyncIterator[Samples]:
        """Wait for a place, read a recording, and hold both for the length of the `with` block.

        `read` returns samples, float32 [n], 16 kHz. It may block; its event is set once the
        caller no longer waits. Raises BadInput that names `field` if reading takes too long,
        AtCapacity if no place is free in time, and what `read` raises.
        """
        await self._take_place()
        try:
            try:
                async with asyncio.timeout(READ_TIMEOUT_S):
                    samples = await run_aside(read)
            except TimeoutError:
                raise BadInput(f"{field}: reading it took too long") from None
            yield samples
        finally:
            self._places.release()

    async def _take_place(self) -> None:
        too_many = AtCapacity("too many recordings are being processed", retry_after_s=5)
        if self._waiting >= self._most_waiting:
            raise too_many
        self._waiting += 1
        try:
            async with asyncio.timeout(self._place_timeout_s):
                await self._places.acquire()
        except TimeoutError:
            raise too_many from None
        finally:
            self._waiting -= 1


def from_base64(text: str) -> bytes:
    """The bytes of a base64 text. All APIs of the worker read base64 with this function.

    It accepts what programs really send: white space, `-_` in place of `+/`, missing padding, and
    a `data:` address. Raises BadInput that says what is wrong.
    """
    # A character that is not ASCII becomes `?`, which is not base64 and is reported below.
    data = _payload_of(text) if is_data_address(text) else text.encode("ascii", "replace")
    data = data.translate(_STANDARD_LETTERS, delete=_WHITE_SPACE).rstrip(b"=")
    if strays := data.translate(None, delete=_LETTERS):
        stray = chr(strays[0])
        where = "in the middle" if stray == "=" else "in it"
        raise BadInput(f"this is not base64: it has {ascii(stray)} {where}")
    if len(data) % 4 == 1:
        raise BadInput("this is not base64: a letter is missing or too many, is it cut off?")
    if not data:
        raise BadInput("this base64 has nothing in it")
    return binascii.a2b_base64(data + b"=" * (-len(data) % 4))


def is_data_address(text: str) -> bool:
    """Whether the text is a `data:` address, in upper or lower case."""
    return text[:64].lstrip()[:5].lower() == "data:"


def _payload_of(address: str) -> bytes:
    head, comma, payload = address.partition(",")
    if not comma:
        raise BadInput("this data: address has no comma, after which its bytes would come")
    if not re.search(r";\s*base64\s*$", head, re.IGNORECASE):
        raise BadInput("this data: address is not in base64: it must have ;base64 before its comma")
    return unquote_to_bytes(payload)
