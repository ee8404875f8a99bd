"""Transcribes a file, and sends the transcript whole or in pieces."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web

from voxtral_worker.audio.clips import read_clip
from voxtral_worker.audio.recordings import MAX_AUDIO_S, Recordings, Samples
from voxtral_worker.audio.stretches import Stretch
from voxtral_worker.engine.answer import Engine
from voxtral_worker.engine.conversation import SAMPLE_RATE
from voxtral_worker.engine.transcript import Segment, Transcript, write_down
from voxtral_worker.errors import BadInput
from voxtral_worker.server.openai.errors import within
from voxtral_worker.server.openai.stream import EventStream, relay
from voxtral_worker.server.openai.subtitles import as_srt, as_vtt
from voxtral_worker.server.openai.transcription_request import TIMED_FORMATS, TranscriptionRequest
from voxtral_worker.server.openai.usage import duration_usage, transcription_usage
from voxtral_worker.turns.recording import FindSpeech, joined

# The unit of `seek`, which comes from Whisper, is ten milliseconds.
SEEKS_PER_SECOND = 100


async def transcribe(
    request: web.Request,
    engine: Engine,
    asked: TranscriptionRequest,
    recordings: Recordings,
    find_speech: FindSpeech,
) -> web.StreamResponse:
    """Answer the call. Raises errors until the response has begun."""
    try:
        async with recordings.opened(
            "file",
            lambda is_over: read_clip(asked.file, max_seconds=MAX_AUDIO_S, is_over=is_over),
        ) as samples:
            spoken = await find_speech(samples)
            # A short window costs as much as 30 s: cut finely only where segments need times.
            windows = spoken if asked.response_format in TIMED_FORMATS else joined(spoken)
            return await _write_down(request, engine, asked, samples, windows)
    except BadInput as error:
        raise within("file", error) from None


async def _write_down(
    request: web.Request,
    engine: Engine,
    asked: TranscriptionRequest,
    samples: Samples,
    windows: Sequence[Stretch],
) -> web.StreamResponse:
    async def work(say: Callable[[str], None]) -> Transcript:
        return await write_down(
            engine, samples, windows, asked.sampling, asked.language, "file", say
        )

    if not asked.stream:
        written = await work(lambda _: None)
        return _whole(asked, written, len(samples) / SAMPLE_RATE)
    stream = EventStream(request)
    async with stream.telling_errors():
        written = await relay(work, lambda text: stream.send(_delta(text)))
        await stream.send({"type": "transcript.text.done", **_json(written)})
    return stream.response


def _delta(text: str) -> dict[str, Any]:
    return {"type": "transcript.text.delta", "delta": text}


def _whole(asked: TranscriptionRequest, written: Transcript, duration_s: float) -> web.Response:
    segments = [segment for segment in written.segments if segment.answer.text.strip()]
    match asked.response_format:
        case "text":
            return web.Response(text=written.answer.text + "\n")
        case "json":
            return web.json_response(_json(written))
        case "srt":
            return web.Response(text=as_srt(segments))
        case "vtt":
            return web.Response(text=as_vtt(segments))
    return web.json_response(
        {
            "task": "transcribe",
            # The model does not return the language.
            "language": written.language or "unknown",
            "duration": duration_s,
            "text": written.answer.text,
            "segments": [
                _segment(index, segment, asked.sampling.temperature)
                for index, segment in enumerate(segments)
            ],
            "usage": duration_usage(duration_s),
        }
    )


def _json(written: Transcript) -> dict[str, Any]:
    usage = transcription_usage(written.answer.usage)
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
