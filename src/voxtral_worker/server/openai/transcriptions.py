"""Writes a file down, whole or in pieces."""

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

from aiohttp import web

from voxtral_worker.audio.recordings import Recordings, Samples
from voxtral_worker.engine.answer import Engine
from voxtral_worker.engine.conversation import AUDIO_TOKENS_PER_WINDOW, SAMPLE_RATE
from voxtral_worker.engine.transcript import Segment, Transcript, write_down
from voxtral_worker.errors import BadInput, WorkerError
from voxtral_worker.server.openai.errors import within
from voxtral_worker.server.openai.files import read_file
from voxtral_worker.server.openai.stream import EventStream, relay
from voxtral_worker.server.openai.transcription_request import TranscriptionRequest
from voxtral_worker.server.openai.usage import duration_usage, transcription_usage

# Of Whisper's, from which `seek` comes: ten milliseconds.
SEEKS_PER_SECOND = 100


async def transcribe(
    request: web.Request, engine: Engine, asked: TranscriptionRequest, recordings: Recordings
) -> web.StreamResponse:
    """The response. Raises what is wrong with the file, or what the engine reports."""
    try:
        async with recordings.opened("file", partial(read_file, asked.file)) as samples:
            return await _write_down(request, engine, asked, samples)
    except BadInput as error:
        raise within("file", error) from None


async def _write_down(
    request: web.Request, engine: Engine, asked: TranscriptionRequest, samples: Samples
) -> web.StreamResponse:
    async def work(say: Callable[[str], None]) -> Transcript:
        return await write_down(engine, samples, asked.sampling, asked.language, "file", say)

    if not asked.streams:
        written = await work(lambda _: None)
        return _whole(asked, written, len(samples) / SAMPLE_RATE)
    stream = EventStream(request)
    try:
        written = await relay(work, lambda text: stream.send(_delta(text)))
        await stream.send({"type": "transcript.text.done", **_json(written)})
    except WorkerError as error:
        if not stream.has_begun:
            raise
        await stream.fail(error)
    return stream.response


def _delta(text: str) -> dict[str, Any]:
    return {"type": "transcript.text.delta", "delta": text}


def _whole(asked: TranscriptionRequest, written: Transcript, duration_s: float) -> web.Response:
    if asked.format == "text":
        return web.Response(text=written.answer.text + "\n")
    if asked.format == "json":
        return web.json_response(_json(written))
    return web.json_response(
        {
            "task": "transcribe",
            # Which language it was the model does not say.
            "language": asked.language or "unknown",
            "duration": duration_s,
            "text": written.answer.text,
            "segments": [
                _segment(index, segment, asked.sampling.temperature)
                for index, segment in enumerate(written.segments)
            ],
            "usage": duration_usage(duration_s),
        }
    )


def _json(written: Transcript) -> dict[str, Any]:
    audio_tokens = len(written.segments) * AUDIO_TOKENS_PER_WINDOW
    usage = transcription_usage(written.answer.usage, audio_tokens)
    return {"text": written.answer.text, "usage": usage}


def _segment(index: int, segment: Segment, temperature: float) -> dict[str, Any]:
    text = segment.answer.text
    encoded = text.encode()
    return {
        "id": index,
        "seek": int(segment.start_s * SEEKS_PER_SECOND),
        "start": segment.start_s,
        "end": segment.end_s,
        "text": text,
        "tokens": list(segment.answer.token_ids),
        "temperature": temperature,
        "compression_ratio": len(encoded) / len(zlib.compress(encoded)),
        # The engine keeps no probabilities.
        "avg_logprob": None,
        "no_speech_prob": None,
    }
