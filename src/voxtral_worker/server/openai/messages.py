"""The messages in the bodies of OpenAI's REST calls, and their meaning."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, GetPydanticSchema, TypeAdapter, ValidationInfo
from pydantic_core import PydanticCustomError, core_schema

from voxtral_worker.audio.recordings import from_base64
from voxtral_worker.engine.dialogue import Dialogue, Said, dialogue
from voxtral_worker.engine.tool_options import MAX_CALL_ID, MAX_TOOLS, read_call_id, read_calls
from voxtral_worker.engine.tools import ToolCall
from voxtral_worker.errors import shown
from voxtral_worker.server.openai.errors import BadOption, unsupported
from voxtral_worker.server.openai.parameters import (
    Parameters,
    harmless,
    ignored,
    keys,
    not_offered,
    option,
    text,
    unsupported_key,
)
from voxtral_worker.values.may import Filled, attempt, made_of, may_be, told
from voxtral_worker.values.model import By, Picked

MAX_CHARACTERS = 500_000
MAX_MESSAGES = 256
MAX_PARTS = 64
OLD_TOOLS = "{name} is {value}, but functions are offered as tools now, with tool_choice"


@dataclass(frozen=True)
class EncodedAudio:
    """The bytes of a recording; `param` is its name in errors."""

    param: str
    data: bytes


Spoken: TypeAlias = str | EncodedAudio


def _base64(value: object, _: str) -> bytes:
    if not isinstance(value, str) or not value:
        raise may_be("base64")
    return from_base64(value)


def _address(value: object, _: str) -> bytes:
    if not isinstance(value, str) or not value[:5].lower() == "data:":
        raise may_be("a data: address: this worker fetches nothing for a chat")
    return from_base64(value)


Text: TypeAlias = Annotated[str, text(MAX_CHARACTERS)]
Base64: TypeAlias = Annotated[bytes, made_of(_base64, {"type": "string"})]
Address: TypeAlias = Annotated[bytes, made_of(_address, {"type": "string"})]


def text_or(of_text: Any, other: Any) -> Picked:
    """In the annotation of a union: read a string as the one type, all else as the other."""
    text, else_ = TypeAdapter(of_text), TypeAdapter(other)
    return Picked(lambda value: text if isinstance(value, str) else else_)


class TextPart(Parameters):
    """A text, also under the names that it has in other calls."""

    extras = keys(ignored, "annotations logprobs")
    type: Literal["text", "input_text", "output_text"]
    text: Text = ""


class RefusalPart(Parameters):
    """The words with which the assistant refused to answer."""

    type: Literal["refusal"]
    refusal: Text = ""


class Sound(Parameters):
    """A recording. The worker takes its format from the bytes."""

    data: Base64
    format: Annotated[str, text(64)] = ""


class SoundPart(Parameters):
    """A recording: the object of OpenAI's API, or base64 alone, as Mistral's clients send it."""

    type: Literal["input_audio"]
    input_audio: Annotated[Sound | Base64, text_or(Base64, Sound)]


class Link(Parameters):
    """A `data:` address, which contains the recording."""

    url: Address


class LinkPart(Parameters):
    """A recording in a `data:` address."""

    type: Literal["audio_url"]
    audio_url: Annotated[Link | Address, text_or(Address, Link)]


Part: TypeAlias = TextPart | RefusalPart | SoundPart | LinkPart


_KIND = By("type", "may be text, and input_audio or audio_url of a user", not_offered)
_PARTS = Filled("a text, a list of parts, or null", "parts", MAX_PARTS, least=0)
TextParts: TypeAlias = list[Annotated[TextPart | RefusalPart, _KIND]]
UserParts: TypeAlias = list[Annotated[Part, _KIND]]


def or_text(parts: Any) -> BeforeValidator:
    """In the annotation of a list of parts: a string is one text part, an empty string no part."""

    def make(value: object) -> object:
        text = [{"type": "text", "text": value}] if value else []
        return text if isinstance(value, str) else value

    return BeforeValidator(make, json_schema_input_type=str | parts)


class Message(Parameters):
    """Abstract: one message. Many keys only come back from earlier answers."""

    extras = {
        **keys(ignored, "name id type status phase"),
        **keys(unsupported_key(), "audio tool_call_id"),
        **keys(harmless([]), "tool_calls annotations"),
        "function_call": unsupported_key(OLD_TOOLS),
    }
    content: Annotated[TextParts, _PARTS, or_text(TextParts)] = []
    refusal: Text = ""


class SystemMessage(Message):
    """Instructions to the model."""

    role: Literal["system", "developer"]


class UserMessage(Parameters):
    """What the user says: text, and as the only role audio."""

    extras = Message.extras
    role: Literal["user"]
    content: Annotated[UserParts, _PARTS, or_text(UserParts)] = []
    refusal: Text = ""


class AssistantMessage(Message):
    """An answer of the model: its words, its refusal and its tool calls."""

    role: Literal["assistant"]
    tool_calls: Annotated[
        tuple[ToolCall, ...],
        made_of(read_calls, {"type": "array", "maxItems": MAX_TOOLS, "items": {"type": "object"}}),
    ] = ()


class ToolMessage(Message):
    """The result of a tool call."""

    role: Literal["tool"]
    tool_call_id: Annotated[
        str,
        made_of(read_call_id, {"type": "string", "minLength": 1, "maxLength": MAX_CALL_ID}),
    ]
    # Ignored, whatever it is.
    refusal: Any = None


AnyMessage: TypeAlias = SystemMessage | UserMessage | AssistantMessage | ToolMessage


def _no_role(words: str) -> PydanticCustomError:
    return told(lambda name, role: _of_role(name, role, words))


def _of_role(name: str, role: object, words: str) -> BadOption:
    told = f"{name} is {shown(role)}"
    if role == "function":
        return unsupported(name, f"{told}: results of tools have the role tool now")
    return BadOption(name, f"{told}, but must be {words}", "invalid_value")


MESSAGE = By("role", refuse=_no_role)
MESSAGES = Filled(f"a list of 1 to {MAX_MESSAGES} messages", "", MAX_MESSAGES)
Messages: TypeAlias = Annotated[list[Annotated[AnyMessage, MESSAGE]], MESSAGES]


def said_of(message: AnyMessage, name: str) -> Said[Spoken]:
    """What a message says; `name` is its name in errors."""
    parts = [_spoken(part, f"{name}.content[{at}]") for at, part in enumerate(message.content)]
    if isinstance(message, ToolMessage):
        return Said("tool", tuple(parts), result_of=message.tool_call_id)
    if message.refusal:
        parts.append(message.refusal)
    calls = message.tool_calls if isinstance(message, AssistantMessage) else ()
    return Said("system" if message.role == "developer" else message.role, tuple(parts), calls)


def _spoken(part: Part, name: str) -> Spoken:
    match part:
        case TextPart():
            return part.text
        case RefusalPart():
            return part.refusal
        case SoundPart(input_audio=sound):
            name = f"{name}.input_audio"
            if isinstance(sound, bytes):
                return EncodedAudio(name, sound)
            return EncodedAudio(f"{name}.data", sound.data)
        case LinkPart(audio_url=link):
            name = f"{name}.audio_url"
            if isinstance(link, bytes):
                return EncodedAudio(name, link)
            return EncodedAudio(f"{name}.url", link.url)


def meant_by(
    kind: Any, said: Callable[[Any, ValidationInfo], Iterable[Said[Spoken]]]
) -> GetPydanticSchema:
    """In the annotation of a Dialogue: a value of this kind, and its messages."""

    def check(value: object, info: ValidationInfo) -> Dialogue[Spoken]:
        messages = list(said(value, info))
        texts = [part for each in messages for part in each.parts if isinstance(part, str)]
        if sum(map(len, texts)) > MAX_CHARACTERS:
            raise option(f"has more than {MAX_CHARACTERS} characters")
        return attempt(lambda _: dialogue(messages))

    return GetPydanticSchema(
        lambda _, handler: core_schema.with_info_after_validator_function(
            check, handler.generate_schema(kind)
        )
    )
