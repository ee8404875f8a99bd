"""OpenAI's REST calls."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from aiohttp import web

from voxtral_worker.audio.recordings import Recordings
from voxtral_worker.engine.answer import Engine
from voxtral_worker.engine.conversation import Conversation
from voxtral_worker.server.middleware import LIMITS, count_call
from voxtral_worker.server.openai.body import Bodies, read_form, read_json_as
from voxtral_worker.server.openai.chat import complete, conversation_of
from voxtral_worker.server.openai.chat_request import ChatRequest, read_chat
from voxtral_worker.server.openai.models import check_model, model_object, model_objects
from voxtral_worker.server.openai.responses import respond
from voxtral_worker.server.openai.responses_request import ResponsesRequest, read_responses
from voxtral_worker.server.openai.speech import require_speech, speak
from voxtral_worker.server.openai.speech_request import read_speech
from voxtral_worker.server.openai.stream import while_connected
from voxtral_worker.server.openai.transcription_request import read_transcription
from voxtral_worker.server.openai.transcriptions import transcribe
from voxtral_worker.server.service import Service
from voxtral_worker.turns.recording import find_speech

R = TypeVar("R", ChatRequest, ResponsesRequest)


class Calls:
    """The handlers of the calls, which share the limits for bodies and recordings."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._bodies = Bodies()
        self._recordings = Recordings()

    def routes(self) -> list[web.RouteDef]:
        """The routes of the calls."""
        return [
            web.get("/v1/models", self.list_models),
            web.get("/v1/models/{model:.+}", self.get_model),
            web.post("/v1/audio/transcriptions", self.transcriptions),
            web.post("/v1/audio/speech", self.speech),
            web.post("/v1/chat/completions", self.chat_completions),
            web.post("/v1/responses", self.responses),
        ]

    async def list_models(self, _: web.Request) -> web.Response:
        """List the served model, once under each of its names."""
        return web.json_response({"object": "list", "data": model_objects(self._service)})

    async def get_model(self, request: web.Request) -> web.Response:
        """Return the served model by one of its names."""
        asked = request.match_info["model"]
        served = check_model(self._service, asked)
        is_alias = asked in self._service.settings.model_aliases
        return web.json_response(model_object(self._service, asked if is_alias else served))

    async def transcriptions(self, request: web.Request) -> web.StreamResponse:
        """Transcribe a file."""
        return await self._served(request, self._transcribe)

    async def speech(self, request: web.Request) -> web.StreamResponse:
        """Speak a text."""
        return await self._served(request, self._speak)

    async def chat_completions(self, request: web.Request) -> web.StreamResponse:
        """Answer a conversation."""
        return await self._served(
            request, lambda request: self._answer(request, read_chat, complete)
        )

    async def responses(self, request: web.Request) -> web.StreamResponse:
        """Answer a conversation in the shape of the Responses API."""
        return await self._served(
            request, lambda request: self._answer(request, read_responses, respond)
        )

    async def _served(
        self, request: web.Request, serve: "Callable[[web.Request], Awaitable[web.StreamResponse]]"
    ) -> web.StreamResponse:
        self._service.require_ready()
        await count_call(request)

        async def work() -> web.StreamResponse:
            return await serve(request)

        with self._service.call_under_way():
            response = await while_connected(request, work())
        if not response.prepared:
            response.headers.update(request.get(LIMITS, {}))
        return response

    async def _transcribe(self, request: web.Request) -> web.StreamResponse:
        async with self._bodies.place(request.content_length):
            asked = read_transcription(await read_form(request))
            check_model(self._service, asked.model)
            parts = self._service.require_ready()
            find = partial(find_speech, parts.vad.survey)
            # Hold the place until the end: the form stays in memory while its recording waits.
            return await transcribe(request, parts.engine, asked, self._recordings, find)

    async def _speak(self, request: web.Request) -> web.StreamResponse:
        voice = require_speech(self._service.require_ready().speech)
        async with self._bodies.place(request.content_length):
            asked = await read_json_as(request, read_speech)
        return await speak(request, voice, asked)

    async def _answer(
        self,
        request: web.Request,
        read: Callable[[dict[str, Any]], R],
        tell: Callable[[web.Request, Engine, str, R, Conversation], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """Answer a conversation in the shape of the API that was called."""
        async with self._bodies.place(request.content_length):
            asked = await read_json_as(request, read)
            model = check_model(self._service, asked.model)
            conversation = await conversation_of(
                asked.said, asked.system_prompt, asked.tool_choice, self._recordings
            )
        engine = self._service.require_ready().engine
        return await tell(request, engine, model, asked, conversation)
