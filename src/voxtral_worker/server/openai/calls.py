"""OpenAI's REST calls."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from voxtral_worker.audio.recordings import Recordings
from voxtral_worker.server.middleware import LIMITS, count_call
from voxtral_worker.server.openai.body import Bodies, read_form, read_json
from voxtral_worker.server.openai.chat import complete, conversation_of
from voxtral_worker.server.openai.chat_request import read_chat
from voxtral_worker.server.openai.models import check_model, model_object
from voxtral_worker.server.openai.stream import while_connected
from voxtral_worker.server.openai.transcription_request import read_transcription
from voxtral_worker.server.openai.transcriptions import transcribe
from voxtral_worker.server.service import Service


class Calls:
    """Bodies and recordings are bounded over all calls together."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._bodies = Bodies()
        self._recordings = Recordings()

    def routes(self) -> list[web.RouteDef]:
        """Where the calls are."""
        return [
            web.get("/v1/models", self.list_models),
            web.get("/v1/models/{model:.+}", self.get_model),
            web.post("/v1/audio/transcriptions", self.transcriptions),
            web.post("/v1/chat/completions", self.chat_completions),
        ]

    async def list_models(self, _: web.Request) -> web.Response:
        """The model that is served."""
        return web.json_response({"object": "list", "data": [model_object(self._service)]})

    async def get_model(self, request: web.Request) -> web.Response:
        """The model that is served, by its name."""
        check_model(self._service, request.match_info["model"])
        return web.json_response(model_object(self._service))

    async def transcriptions(self, request: web.Request) -> web.StreamResponse:
        """The words of a file."""
        return await self._served(request, self._transcribe)

    async def chat_completions(self, request: web.Request) -> web.StreamResponse:
        """An answer to a conversation."""
        return await self._served(request, self._complete)

    async def _served(
        self, request: web.Request, serve: "Callable[[web.Request], Awaitable[web.StreamResponse]]"
    ) -> web.StreamResponse:
        self._service.require_ready()
        await count_call(request, "calls")

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
        engine = self._service.require_ready().engine
        return await transcribe(request, engine, asked, self._recordings)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        async with self._bodies.place(request.content_length):
            asked = read_chat(await read_json(request))
            model = check_model(self._service, asked.model)
            conversation = await conversation_of(asked, self._recordings)
        engine = self._service.require_ready().engine
        return await complete(request, engine, model, asked, conversation)
