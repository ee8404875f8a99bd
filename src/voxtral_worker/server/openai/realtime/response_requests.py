"""What client events ask of responses: create, cancel."""

import time
from collections.abc import Callable
from typing import Any

from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.dialogue import Said, dialogue, exchanges
from voxtral_worker.engine.tools import Toolbox
from voxtral_worker.server.driver import Driver
from voxtral_worker.server.openai.errors import BadOption, told_of
from voxtral_worker.server.openai.parameters import read_parameters
from voxtral_worker.server.openai.realtime.item_options import Decode
from voxtral_worker.server.openai.realtime.reporter import Reporter
from voxtral_worker.server.openai.realtime.response_options import ResponseOptions
from voxtral_worker.server.openai.realtime.session_options import (
    SessionOptions,
    as_tokens,
    config_of_tools,
)
from voxtral_worker.server.tools import require_callable
from voxtral_worker.sessions.config import SessionConfig


class ResponseRequests:
    """Asks the session for responses with the session's options, and those of each event."""

    def __init__(
        self,
        driver: Driver[Any],
        reporter: Reporter,
        options: Callable[[], SessionOptions],
        decode: Decode,
    ) -> None:
        """`options` returns the options in effect."""
        self._driver = driver
        self._session = driver.session
        self._reporter = reporter
        self._options = options
        self._decode = decode

    async def create(self, response: object) -> None:
        """Ask for a response with the options of an event. Raises BadInput."""
        options = self._options()
        if options.only_transcribes:
            told = (
                "a session of type transcription gives no responses; set session.type to realtime"
            )
            raise BadOption("type", f"type is response.create, but {told}")
        asked = read_parameters(
            ResponseOptions, {} if response is None else response, ("response",)
        )
        said = asked.context(self._decode, self._reporter.items.texts_of)
        tools = asked.toolbox(options.toolbox)
        current = self._reporter.responses.current
        if current is not None and asked.joins:
            raise BadOption(
                None,
                f"the response {current.response_id} is still being made",
                "conversation_already_has_active_response",
            )
        if tools is not None:
            await require_callable(self._driver.engine, tools)
        config, context = self._config(asked, tools), None
        with told_of("response.output_modalities"):
            self._driver.require_voice(config.voice)
        if said is not None:
            instructions = Said[str | Audio]("system", (config.system_prompt or "",))
            with told_of("response.input"):
                meant = dialogue([instructions, *said])
            config = config.model_copy(update={"system_prompt": meant.system})
            context = exchanges(meant.turns)
        # The audio of the input is in the context already.
        tag = asked.model_copy(update={"input": None})
        effects = self._session.inputs.respond(
            time.monotonic(), config, tag=tag, context=context, joins=asked.joins
        )
        self._driver.perform(effects)

    def cancel(self, response_id: object) -> None:
        """Stop the open response; `response_id` may name it."""
        current = self._reporter.responses.current
        if current is None or response_id not in (None, current.response_id):
            raise BadOption(
                "response_id", "there is no such response to cancel", "response_cancel_not_active"
            )
        self._driver.perform(self._session.cancel(time.monotonic()))

    def _config(self, asked: ResponseOptions, tools: Toolbox | None) -> SessionConfig:
        """The session's config with the options of one response."""
        own: dict[str, object] = {}
        if asked.instructions is not None:
            own["system_prompt"] = asked.instructions or None
        if asked.max_output_tokens is not None:
            own["max_length"] = as_tokens(asked.max_output_tokens)
        if tools is not None:
            own |= config_of_tools(tools)
        if asked.speaks is not None:
            own["voice"] = self._options().audio.output.voice if asked.speaks else None
        return self._session.config.model_copy(update=own)
