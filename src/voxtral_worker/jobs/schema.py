"""Reads a job's input into frozen values, or says which field is wrong.

Options of a job are the generation keys of a session's config, with the same ranges.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, get_args
from urllib.parse import urlsplit

from pydantic import TypeAdapter
from pydantic_core import core_schema

from voxtral_worker.audio.recordings import is_data_address
from voxtral_worker.engine.conversation import (
    TRANSCRIPT_TOKENS_PER_WINDOW,
    Audio,
    Conversation,
    UserTurn,
)
from voxtral_worker.engine.dialogue import Said, dialogue, exchanges
from voxtral_worker.engine.request import Sampling
from voxtral_worker.engine.tool_options import (
    read_call_id,
    read_calls,
    read_response_format,
    read_toolbox,
    read_tools,
)
from voxtral_worker.engine.tools import NO_TOOLS, Toolbox
from voxtral_worker.errors import BadInput, TooLarge, shown
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.speech.pieces import MAX_VOICE_CHARACTERS
from voxtral_worker.speech.voice import DEFAULT_VOICE
from voxtral_worker.values.may import (
    CHOICE,
    Filled,
    Flag,
    May,
    above,
    clean_text,
    filled_text,
    made_of,
    may_be,
)
from voxtral_worker.values.model import By, Values, options_of
from voxtral_worker.values.reading import read

# What a caller may say of the words of a job; a transcript has no end of its own to ask for.
GENERATION_KEYS = ("temperature", "max_length", "top_p", "seed", "language", "system_prompt")
# More than any context holds; refused here because the engine would have to tokenise it first.
MAX_CHARACTERS = 500_000
MAX_TEXTS = 1024
SpeechKind: TypeAlias = Literal["mp3", "wav"]
SPEECH_FORMATS: tuple[SpeechKind, ...] = get_args(SpeechKind)
MAX_TTL_S = 3600.0
DEFAULT_TTL_S = 900.0
DEFAULT_IDLE_S = 60.0


@dataclass(frozen=True)
class Options:
    """How the words of a job are made."""

    sampling: Sampling = Sampling()
    language: str | None = None
    system_prompt: str | None = None
    tools: Toolbox = NO_TOOLS


@dataclass(frozen=True)
class Prompt:
    """One conversation to be answered, with the name of the field it came from."""

    field: str
    conversation: Conversation


@dataclass(frozen=True)
class HealthJob:
    """Asks how the worker is."""


@dataclass(frozen=True)
class SpokenAnswer:
    """Answers come as speech, too."""

    voice: str = DEFAULT_VOICE
    format: str = SPEECH_FORMATS[0]


@dataclass(frozen=True)
class TextJob:
    """One answer for every prompt."""

    prompts: tuple[Prompt, ...]
    sampling: Sampling
    stream: bool
    spoken: SpokenAnswer | None = None
    language: str | None = None


@dataclass(frozen=True)
class AudioSource:
    """Where a job's audio is; `field` is `audio_base64` or `audio_url`."""

    field: str
    value: str


@dataclass(frozen=True)
class TranscribeJob:
    """Asks for the words of a recording."""

    source: AudioSource
    options: Options
    stream: bool


@dataclass(frozen=True)
class AudioJob:
    """Asks about a recording; without a question, the recording itself is the question."""

    source: AudioSource
    question: str | None
    options: Options
    stream: bool
    spoken: SpokenAnswer | None = None


@dataclass(frozen=True)
class SessionJob:
    """Asks for a session, and keeps the worker up while people talk in it."""

    config: SessionConfig
    ttl_s: float
    idle_s: float


Job: TypeAlias = HealthJob | TextJob | TranscribeJob | AudioJob | SessionJob


_SOURCE = May(
    "a text that is not empty", core_schema.str_schema(min_length=1, pattern=r"\S", strict=True)
)


def _address(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise may_be(_SOURCE.words)
    if not is_data_address(value) and not _is_web_address(value):
        raise may_be("an http:// or https:// address, or a data: address")
    return value


def _is_web_address(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


_ADDRESS = May("an address", core_schema.no_info_plain_validator_function(_address), tells=True)
_TEXT = filled_text(MAX_CHARACTERS)
_VOICE = clean_text("the name of a voice", 1, MAX_VOICE_CHARACTERS)
_SECONDS = above(0, MAX_TTL_S)


class JobInput(Values):
    """Abstract: what stands in the input of a job; `type` says of which."""

    @classmethod
    def no_such(cls, keys: list[str]) -> str:
        """See Values."""
        (kind,) = get_args(cls.model_fields["type"].annotation)
        takes = ", ".join(KEYS[kind]) or "nothing else"
        what = "is not a field" if len(keys) == 1 else "are no fields"
        return f"{', '.join(keys)} {what} of a {kind} job; beside type it takes {takes}"


class AnswerInput(JobInput):
    """Abstract: what a job may say of the answers that it asks for."""

    stream: Flag = False
    speech: Flag = False
    voice: Annotated[str, _VOICE] = DEFAULT_VOICE
    speech_format: Annotated[SpeechKind, CHOICE] = "mp3"
    tools: Any = ()
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    response_format: Any = None


class HealthInput(JobInput):
    """What stands in the input of a health job."""

    type: Literal["health"]


class TextInput(AnswerInput):
    """The input of a text job, without the options of its words."""

    type: Literal["text"]
    text: Annotated[str, _TEXT] | None = None
    texts: (
        Annotated[
            list[Annotated[str, _TEXT]], Filled("a list of one text or more", "texts", MAX_TEXTS)
        ]
        | None
    ) = None
    messages: (
        Annotated[list[Any], Filled("a list of one message or more", "messages", MAX_CHARACTERS)]
        | None
    ) = None


class TranscribeInput(JobInput):
    """The input of a transcription, without the options of its words."""

    type: Literal["transcribe"]
    audio_base64: Annotated[str, _SOURCE] | None = None
    audio_url: Annotated[str, _ADDRESS] | None = None
    stream: Flag = False


class AudioInput(AnswerInput):
    """The input of an audio job, without the options of its words."""

    type: Literal["audio"]
    text: Annotated[str, _TEXT] | None = None
    audio_base64: Annotated[str, _SOURCE] | None = None
    audio_url: Annotated[str, _ADDRESS] | None = None


class SessionInput(JobInput):
    """What stands in the input of a session job."""

    type: Literal["session"]
    config: Annotated[
        SessionConfig,
        made_of(lambda value, _: SessionConfig().updated(value), {"type": "object"}),
    ] = SessionConfig()
    ttl_seconds: Annotated[float, _SECONDS] = DEFAULT_TTL_S
    idle_seconds: Annotated[float, _SECONDS] = DEFAULT_IDLE_S


def _fields_of(model: type[JobInput]) -> list[str]:
    names = [name for name in options_of(model) if name != "type"]
    return sorted(names, key=lambda name: name not in model.__annotations__)


Input: TypeAlias = HealthInput | TextInput | TranscribeInput | AudioInput | SessionInput
_INPUT: TypeAdapter[Input] = TypeAdapter(Annotated[Input, By("type")])
# The options of words: those of a session's config that a job of each type may have.
_OPTIONS: dict[str, tuple[str, ...]] = {
    "text": (*GENERATION_KEYS, "stop"),
    "transcribe": GENERATION_KEYS,
    "audio": (*GENERATION_KEYS, "stop"),
}
# What each type of job takes: the fields of its own first.
KEYS: dict[str, tuple[str, ...]] = {
    kind: (*_fields_of(model), *_OPTIONS.get(kind, ()))
    for model in get_args(Input)
    for kind in get_args(model.model_fields["type"].annotation)
}


def read_input(value: object) -> Job:
    """The job that an input asks for.

    Raises BadInput that names each bad field, what it was and what it may be.
    """
    if not isinstance(value, dict):
        raise BadInput(f"input is {shown(value)}, but must be an object")
    kind = value.get("type")
    options = _OPTIONS.get(kind, ()) if isinstance(kind, str) else ()
    given = {key: value[key] for key in options if value.get(key) is not None}
    rest = {"type": None, **{key: each for key, each in value.items() if key not in given}}
    fields = read(_INPUT, _meant(rest))
    match fields:
        case TextInput():
            made = _options(given, SessionConfig(), fields)
            prompts = _prompts(fields, made)
            spoken = _spoken(fields)
            return TextJob(prompts, made.sampling, fields.stream, spoken, made.language)
        case TranscribeInput():
            # Each window of the recording is an answer of its own.
            defaults = SessionConfig(temperature=0.0, max_length=TRANSCRIPT_TOKENS_PER_WINDOW)
            return TranscribeJob(_source(fields), _options(given, defaults), fields.stream)
        case AudioInput():
            made = _options(given, SessionConfig(), fields)
            return AudioJob(_source(fields), fields.text, made, fields.stream, _spoken(fields))
        case SessionInput():
            return SessionJob(fields.config, float(fields.ttl_seconds), float(fields.idle_seconds))
        case HealthInput():
            return HealthJob()


# Of each of these a job has exactly one.
_ONE_OF = (("text", "texts", "messages"), ("audio_base64", "audio_url"))


def _meant(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields without an empty question, and without the empty ones of filled choices."""
    optional = {"text"} if fields["type"] == "audio" else set()
    for choices in _ONE_OF:
        if any(fields.get(choice) not in (None, "") for choice in choices):
            optional.update(choices)
    return {key: value for key, value in fields.items() if value != "" or key not in optional}


def _options(
    given: dict[str, Any], defaults: SessionConfig, fields: AnswerInput | None = None
) -> Options:
    config = defaults.updated(given, before="")
    sampling = Sampling(
        float(config.temperature), float(config.top_p), config.max_length, config.stop, config.seed
    )
    if fields is None:
        return Options(sampling, config.language, config.system_prompt)
    form = read_response_format(fields.response_format, "response_format")
    tools = read_tools(list(fields.tools) if fields.tools == () else fields.tools, "tools")
    box = read_toolbox(tools, fields.tool_choice, fields.parallel_tool_calls)
    sampling = dataclasses.replace(sampling, schema=form)
    return Options(sampling, config.language, config.system_prompt, box)


def _spoken(fields: AnswerInput) -> SpokenAnswer | None:
    return SpokenAnswer(fields.voice, fields.speech_format) if fields.speech else None


def _only_one(fields: Input, choices: tuple[str, ...]) -> tuple[str, Any]:
    given = [choice for choice in choices if getattr(fields, choice) is not None]
    if len(given) != 1:
        found = " and ".join(given) if given else "none of them"
        raise BadInput(f"exactly one of {', '.join(choices)} is needed, but the input has {found}")
    return given[0], getattr(fields, given[0])


def _source(fields: TranscribeInput | AudioInput) -> AudioSource:
    return AudioSource(*_only_one(fields, _ONE_OF[1]))


def _prompts(fields: TextInput, options: Options) -> tuple[Prompt, ...]:
    field, value = _only_one(fields, _ONE_OF[0])
    if field == "messages":
        return (Prompt(field, _conversation(value, options)),)
    if field == "text":
        return (Prompt(field, _question(value, options)),)
    named = [(f"texts[{index}]", text) for index, text in enumerate(value)]
    return tuple(Prompt(name, _question(text, options)) for name, text in named)


def _question(text: str, options: Options) -> Conversation:
    return Conversation(
        UserTurn((text,)),
        system_prompt=options.system_prompt,
        language=options.language,
        tools=options.tools,
    )


def _conversation(value: list[Any], options: Options) -> Conversation:
    """Messages as a conversation; see `dialogue` for what any order of them means."""
    said = [_message(index, message) for index, message in enumerate(value)]
    texts = [text for each in said for text in each.parts if isinstance(text, str)]
    if sum(map(len, texts)) > MAX_CHARACTERS:
        raise TooLarge(f"messages have more than {MAX_CHARACTERS} characters")
    if options.system_prompt:
        said.insert(0, Said("system", (options.system_prompt,)))
    try:
        meant = dialogue(said)
    except BadInput as error:
        raise error.of_field("messages") from None
    history, user, rounds = exchanges(meant.turns)
    return Conversation(
        user,
        history,
        meant.system,
        language=options.language,
        rounds=rounds,
        tools=options.tools,
    )


_CONTENT = clean_text("a text", 0)


class SpokenMessage(Values):
    """A user's message, or an instruction that the model gets before it."""

    role: Literal["system", "developer", "user"]
    name: Any = None
    content: Annotated[str, _CONTENT] = ""


class AssistantMessage(Values):
    """What the model has said, and the calls that it made."""

    role: Literal["assistant"]
    name: Any = None
    content: Annotated[str, _CONTENT] = ""
    tool_calls: Any = None


class ToolMessage(Values):
    """What a call came to."""

    role: Literal["tool"]
    name: Any = None
    content: Annotated[str, _CONTENT] = ""
    tool_call_id: Any = None


_MESSAGE: TypeAdapter[SpokenMessage | AssistantMessage | ToolMessage] = TypeAdapter(
    Annotated[SpokenMessage | AssistantMessage | ToolMessage, By("role")]
)


def _message(index: int, value: object) -> Said[str | Audio]:
    field = f"messages[{index}]"
    message = read(_MESSAGE, value, at=("messages", index))
    match message:
        case ToolMessage():
            call_id = read_call_id(message.tool_call_id, f"{field}.tool_call_id")
            return Said("tool", (message.content,), result_of=call_id)
        case AssistantMessage():
            calls = read_calls(message.tool_calls or [], f"{field}.tool_calls")
            return Said("assistant", (message.content,), calls)
        case SpokenMessage():
            role = "system" if message.role == "developer" else message.role
            return Said(role, (message.content,))
