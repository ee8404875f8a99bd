"""Speaks a text: sends a file of speech while it is made."""

import logging
from contextlib import aclosing

from aiohttp import web

from voxtral_worker.errors import BadInput, WorkerError
from voxtral_worker.server.openai.errors import BadOption, within
from voxtral_worker.server.openai.speech_request import SpeechRequest
from voxtral_worker.server.openai.stream import ByteStream, ClientGone
from voxtral_worker.speech.files import FORMATS, SpeechFile
from voxtral_worker.speech.speech import IS_OFF, Speech
from voxtral_worker.speech.voice import DEFAULT_VOICE

log = logging.getLogger(__name__)


def require_speech(speech: Speech | None) -> Speech:
    """The voice. Raises BadOption if the worker has none."""
    if speech is None:
        raise BadOption(None, IS_OFF, "speech_is_off")
    return speech


async def speak(request: web.Request, speech: Speech, asked: SpeechRequest) -> web.StreamResponse:
    """Send the file. Raises errors of the voice until the response has begun."""
    name = asked.voice or DEFAULT_VOICE
    try:
        speech.voice_named(name)
    except BadInput as error:
        raise within("voice", error) from None
    stream = ByteStream(request, FORMATS[asked.response_format].content_type)
    file = SpeechFile(asked.response_format)
    try:
        async with aclosing(speech.read_aloud(asked.input, name, asked.speed)) as said:
            async for samples in said:
                await stream.write(await file.write(samples))
        await stream.write(await file.end())
    except WorkerError as error:
        if not stream.has_begun:
            raise
        # The status was sent already. Only an aborted connection can still show the failure.
        log.warning("speech was cut off: %s", error.message)
        if request.transport is not None:
            request.transport.abort()
        raise ClientGone from None
    return stream.response
