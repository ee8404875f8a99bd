"""Speaks with the voice of another server that has OpenAI's `POST /v1/audio/speech`.

The worker requests wav files. Servers use different sample rates, and only a header shows the rate.
"""

import asyncio
import struct
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import numpy as np
import soxr
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout

from voxtral_worker.errors import SpeechFailed
from voxtral_worker.speech.voice import VOICE_RATE, Samples

CONNECT_S = 5.0
SILENCE_S = 15.0
TOTAL_S = 60.0
# A sentence is at most some 30 s long.
MAX_SECONDS = 120
# The header of a wav is shorter than this. Data without a complete header by then is not a wav.
MAX_HEADER_BYTES = 4096
MAX_TOLD_CHARACTERS = 200
MAX_ERROR_BYTES = 4096
DEFAULT_MODEL = "tts-1"
PCM, EXTENSIBLE = 1, 0xFFFE


@dataclass(frozen=True)
class WavFormat:
    """The fields of a wav's header, and the offset of its samples in bytes."""

    rate: int
    channels: int
    begin: int


class RemoteVoice:
    """Sends one request for each text, and yields the speech while the response comes."""

    def __init__(self, url: str, model: str | None = None, key: str | None = None) -> None:
        """`url` ends with /v1."""
        self._url = f"{url}/audio/speech"
        self._model = model or DEFAULT_MODEL
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http: ClientSession | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Empty: only the server knows its voices."""
        return ()

    async def load(self) -> None:
        """Do nothing. A server that is down now may be up when it is needed."""

    async def say(self, text: str, voice: str, speed: float) -> AsyncGenerator[Samples, None]:
        """See Voice."""
        asked = {
            "model": self._model,
            "input": text,
            "voice": voice,
            "response_format": "wav",
            **({} if speed == 1.0 else {"speed": speed}),
        }
        try:
            async with (
                asyncio.timeout(TOTAL_S),
                self._session().post(
                    self._url, json=asked, headers=self._headers, allow_redirects=False
                ) as response,
            ):
                if response.status != 200:
                    raise SpeechFailed(await _refusal(response))
                async for samples in _read(response):
                    yield samples
        except TimeoutError:
            raise SpeechFailed("the speech server did not answer in time") from None
        except (ClientError, OSError) as error:
            raise SpeechFailed(f"the speech server cannot be reached: {_why(error)}") from None

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.close()

    def _session(self) -> ClientSession:
        if self._http is None:
            timeout = ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
            self._http = ClientSession(timeout=timeout)
        return self._http


async def _refusal(response: ClientResponse) -> str:
    text = (await response.content.read(MAX_ERROR_BYTES)).decode("utf-8", "replace")
    told = ascii(text[:MAX_TOLD_CHARACTERS]) if text.strip() else "nothing more"
    return f"the speech server answered with status {response.status}: {told}"


def _why(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:MAX_TOLD_CHARACTERS]


async def _read(response: ClientResponse) -> AsyncGenerator[Samples, None]:
    """Yield speech at VOICE_RATE from a wav. Raises SpeechFailed for other or too long data."""
    data = bytearray()
    header: WavFormat | None = None
    resampler: soxr.ResampleStream | None = None
    samples_read = 0
    async for chunk in response.content.iter_any():
        data += chunk
        if header is None:
            header = read_header(bytes(data[:MAX_HEADER_BYTES]))
            if header is None:
                if len(data) > MAX_HEADER_BYTES:
                    raise SpeechFailed("the speech server's wav has no samples near its beginning")
                continue
            del data[: header.begin]
            if header.rate != VOICE_RATE:
                resampler = soxr.ResampleStream(header.rate, VOICE_RATE, 1, "float32")
        whole = len(data) - len(data) % (2 * header.channels)
        samples = _mono(bytes(data[:whole]), header.channels)
        del data[:whole]
        samples_read += len(samples)
        if samples_read > MAX_SECONDS * header.rate:
            raise SpeechFailed(f"the speech server's answer is longer than {MAX_SECONDS} s")
        if resampler is not None:
            samples = resampler.resample_chunk(samples)
        if len(samples):
            yield samples
    if header is None:
        raise SpeechFailed("the speech server's answer is no wav")
    if resampler is not None:
        rest = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        if len(rest):
            yield rest


def _mono(data: bytes, channels: int) -> Samples:
    samples = np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768.0)
    mono: Samples = samples.reshape(-1, channels).mean(axis=1, dtype=np.float32)
    return mono


def read_header(data: bytes) -> WavFormat | None:
    """The format of a wav that begins with `data`, or None if the header is not complete yet.

    The length in the header is ignored, because the header of a streamed wav does not have it.
    Raises SpeechFailed for anything but a wav of 16-bit samples.
    """
    if not b"RIFF".startswith(data[:4]) or (len(data) >= 12 and data[8:12] != b"WAVE"):
        raise SpeechFailed("the speech server's answer is no wav")
    at, found = 12, None
    while at + 8 <= len(data):
        name, size = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        if name == b"data":
            if found is None:
                raise SpeechFailed("the speech server's wav does not say its format")
            return WavFormat(*found, begin=at + 8)
        if name == b"fmt ":
            if at + 8 + 16 > len(data):
                return None
            kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", data, at + 8)
            is_good = kind in (PCM, EXTENSIBLE) and bits == 16 and 1 <= channels <= 8
            if not is_good or not 8_000 <= rate <= 192_000:
                raise SpeechFailed("the speech server's wav is not of 16-bit samples")
            found = (rate, channels)
        at += 8 + size + size % 2
    return None
