"""Reads the body of a chat completion."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ValidationInfo
from pydantic_core import PydanticCustomError

from voxtral_worker.engine.dialogue import Dialogue, Said
from voxtral_worker.engine.request import AnswerSchema, Sampling
from voxtral_worker.engine.tool_options import read_response_format
from voxtral_worker.server.openai.messages import (
    OLD_TOOLS,
    AnyMessage,
    Messages,
    Spoken,
    meant_by,
    said_of,
)
from voxtral_worker.server.openai.parameters import (
    Parameters,
    clash,
    harmless,
    ignored,
    keys,
    read_parameters,
    unsupported_key,
)
from voxtral_worker.server.openai.tools import (
    DEFAULT_NEW_TOKENS,
    FORM,
    MAX_NEW_TOKENS,
    AnswerParameters,
)
from voxtral_worker.sessions.config import MOST_SEED, STOP
from voxtral_worker.values.may import Flag, made_of, whole

MAX_CHOICES = 4


class StreamOptions(Parameters):
    """What a stream has in addition to the answer."""

    include_usage: Flag = False
    include_obfuscation: Flag = False


def _said(messages: list[AnyMessage], _: ValidationInfo) -> Iterator[Said[Spoken]]:
    return (said_of(each, f"messages[{index}]") for index, each in enumerate(messages))


class ChatRequest(AnswerParameters):
    """A conversation of texts and audio, and how to answer it."""

    extras = {
        **keys(harmless(0), "frequency_penalty presence_penalty top_logprobs"),
        "logit_bias": harmless({}),
        "logprobs": harmless(False),
        "modalities": harmless(
            ["text"], words='{name} is {value}, but answers of this call are texts: send ["text"]'
        ),
        "functions": harmless([], words=OLD_TOOLS),
        "function_call": harmless("none", "auto", words=OLD_TOOLS),
        # They do not change the answers of this model.
        **keys(
            ignored,
            "user metadata safety_identifier prompt_cache_key prompt_cache_options store verbosity "
            "prompt_cache_retention prediction reasoning_effort service_tier",
        ),
        **keys(unsupported_key(), "audio moderation web_search_options"),
    }
    messages: Annotated[Dialogue[Spoken], meant_by(Messages, _said)]
    max_completion_tokens: Annotated[int, whole(1, MAX_NEW_TOKENS)] | None = None
    max_tokens: Annotated[int, whole(1, MAX_NEW_TOKENS)] | None = None
    stop: Annotated[
        tuple[str, ...],
        STOP,
        BeforeValidator(
            lambda value: [] if value == "" else value,
            json_schema_input_type=Literal[""] | Annotated[tuple[str, ...], STOP],
        ),
    ] = ()
    seed: Annotated[int, whole(-MOST_SEED, MOST_SEED)] | None = None
    response_format: Annotated[AnswerSchema | None, made_of(read_response_format, FORM)] = None
    n: Annotated[int, whole(1, MAX_CHOICES)] = 1
    stream_options: StreamOptions = StreamOptions()

    @property
    def said(self) -> tuple[Said[Spoken], ...]:
        """The turns of the conversation."""
        return self.messages.turns

    @property
    def system_prompt(self) -> str | None:
        """The system text before the turns."""
        return self.messages.system

    @property
    def sampling(self) -> Sampling:
        """How each answer is made."""
        return Sampling(
            float(self.temperature),
            float(self.top_p),
            self.max_tokens or self.max_completion_tokens or DEFAULT_NEW_TOKENS,
            self.stop,
            self.seed,
            self.response_format,
        )

    @property
    def choices(self) -> int:
        """How many answers to make."""
        return self.n

    @classmethod
    def clashes(cls, given: dict[str, Any]) -> list[PydanticCustomError]:
        """See Values."""
        found = []
        if "max_tokens" in given and "max_completion_tokens" in given:
            told = "send max_completion_tokens or max_tokens, not both"
            found.append(clash("max_tokens", told))
        if "stream_options" in given and given.get("stream") is not True:
            found.append(clash("stream_options", "stream_options goes with stream: true only"))
        return found


def read_chat(body: Mapping[str, Any]) -> ChatRequest:
    """Read a body. Raises one BadOption that names all that is wrong."""
    if body.get("function_call") == "none":
        # Functions that must not be called do not change the answer.
        body = {**body, "functions": None}
    return read_parameters(ChatRequest, body)
