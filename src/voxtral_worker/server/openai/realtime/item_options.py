"""Items as a realtime client sends them."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import (
    BeforeValidator,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from voxtral_worker.audio.recordings import from_base64
from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.dialogue import Said
from voxtral_worker.engine.tools import ToolCall, ToolResult
from voxtral_worker.errors import BadInput
from voxtral_worker.server.openai.errors import BadOption
from voxtral_worker.server.openai.messages import or_text
from voxtral_worker.server.openai.parameters import (
    Extra,
    Parameters,
    anything,
    harmless,
    ignored,
    keys,
    not_offered,
    text,
)
from voxtral_worker.server.openai.realtime.items import Item, new_id
from voxtral_worker.server.openai.tools import CallArguments, CallId, CallName
from voxtral_worker.sessions.config import MAX_TEXT_CHARACTERS
from voxtral_worker.values.may import Filled, at, made_of, may_be
from voxtral_worker.values.model import By

MAX_PARTS = 64
MAX_ID_CHARACTERS = 512

# Makes audio of bytes in the format of the session.
Decode: TypeAlias = Callable[[bytes], Audio]
Made: TypeAlias = tuple[Item, Said[str | Audio]]
Text: TypeAlias = Annotated[str, text(MAX_TEXT_CHARACTERS)]


def _base64(value: object, name: str) -> bytes:
    if not isinstance(value, str):
        raise may_be("base64")
    try:
        return from_base64(value) if value else b""
    except BadInput as error:
        raise BadOption(name, f"{name}: {error.message}", "invalid_base64") from None


# An empty string stands for zero bytes.
Base64: TypeAlias = Annotated[
    bytes, made_of(_base64, {"type": "string", "contentEncoding": "base64"})
]
# The id of an existing item. Whether there is one is checked when the event is handled.
ItemId: TypeAlias = Annotated[object, anything({"type": "string"})]


class TextPart(Parameters):
    """A text of the user, the assistant or the system."""

    extras = keys(ignored, "annotations logprobs")
    type: Literal["input_text", "output_text", "text"]
    text: Text = ""


class SpeechPart(Parameters):
    """Speech of the assistant, of which the model reads the transcript."""

    extras = keys(ignored, "audio format")
    type: Literal["output_audio", "audio"]
    transcript: Text = ""


class AudioPart(Parameters):
    """Audio of the user in the format of the session, or only its transcript."""

    extras = keys(ignored, "format")
    type: Literal["input_audio"]
    audio: Annotated[Base64, BeforeValidator(lambda audio: audio or "")] = b""
    transcript: Text = ""

    @field_validator("transcript", mode="wrap")
    @classmethod
    def _is_used(
        cls, text: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> object:
        # With audio the transcript has no effect, so it is not checked.
        return "" if info.data.get("audio") else handler(text or "")

    @model_validator(mode="after")
    def _is_not_empty(self) -> "AudioPart":
        if not self.audio and not self.transcript:
            raise at("audio", may_be("base64"), None)
        return self


UserParts: TypeAlias = list[
    Annotated[TextPart | AudioPart, By("type", "may be input_text or input_audio", not_offered)]
]
AssistantParts: TypeAlias = list[
    Annotated[TextPart | SpeechPart, By("type", "may be output_text", not_offered)]
]
SystemParts: TypeAlias = list[Annotated[TextPart, By("type", "may be input_text", not_offered)]]
_PARTS = Filled(f"a text, or a list of at most {MAX_PARTS} parts", "", MAX_PARTS, least=0)
_STATES: dict[str, Extra] = {
    "object": harmless("realtime.item"),
    "status": harmless("completed", "incomplete", "in_progress"),
}


class NewItem(Parameters):
    """Abstract: an item to be created. Its id is the client's, or a new one."""

    extras: ClassVar[Mapping[str, Extra]] = _STATES
    id: Annotated[str, text(MAX_ID_CHARACTERS)] = ""

    @property
    def item_id(self) -> str:
        """The client's id, or a new one each time."""
        return self.id or new_id("item")


class NewMessage(NewItem):
    """Abstract: a message of one role."""

    extras: ClassVar[Mapping[str, Extra]] = {**_STATES, "phase": ignored}
    type: Literal["message"] | None = None
    role: str
    content: list[Any] = []

    def made(self, decode: Decode) -> Made:
        """The item as clients see it, and as the model reads it.

        Raises BadOption or TooLarge for its audio.
        """
        role = "system" if self.role == "developer" else self.role
        said = [_said(part, decode) for part in self.content]
        item_id = self.item_id
        item = Item(item_id, role, [_seen(each, role) for each in said], key=item_id)
        # Clients see a blank text in the item, but the model does not read it.
        parts = tuple(each for each in said if isinstance(each, Audio) or each.strip())
        return item, Said(role, parts)


class UserMessage(NewMessage):
    """A message of the user."""

    role: Literal["user"]
    content: Annotated[UserParts, _PARTS, or_text(UserParts)] = []


class AssistantMessage(NewMessage):
    """A message of the assistant."""

    role: Literal["assistant"]
    content: Annotated[AssistantParts, _PARTS, or_text(AssistantParts)] = []


class SystemMessage(NewMessage):
    """Instructions; the role has two names."""

    role: Literal["system", "developer"]
    content: Annotated[SystemParts, _PARTS, or_text(SystemParts)] = []


class FunctionCall(NewItem):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: CallId
    name: CallName
    arguments: CallArguments = "{}"

    def made(self, _: Decode) -> Made:
        """The item as clients see it, and as the model reads it."""
        call = ToolCall(self.call_id, self.name, self.arguments)
        return Item(self.item_id, "assistant", call=call), Said("assistant", (), (call,))


class FunctionCallOutput(NewItem):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: Text = ""

    def made(self, _: Decode) -> Made:
        """The item as clients see it, and as the model reads it."""
        result = ToolResult(self.call_id, self.output)
        said = Said[str | Audio]("tool", (self.output,), result_of=self.call_id)
        return Item(self.item_id, "tool", result=result), said


class ItemReference(Parameters):
    """An item of the conversation, which the model reads once more."""

    type: Literal["item_reference"]
    id: ItemId = None


_ITEMS = By(
    "type", "items may be messages, function_call and function_call_output", not_offered, "message"
)
_NewMessage: TypeAlias = Annotated[
    UserMessage | AssistantMessage | SystemMessage, By("role", "user, assistant or system")
]
AnyItem: TypeAlias = Annotated[_NewMessage | FunctionCall | FunctionCallOutput, _ITEMS]
AnyInput: TypeAlias = Annotated[
    _NewMessage | FunctionCall | FunctionCallOutput | ItemReference, _ITEMS
]


def _said(part: TextPart | SpeechPart | AudioPart, decode: Decode) -> str | Audio:
    match part:
        case TextPart():
            return part.text
        case AudioPart(audio=audio) if audio:
            return decode(audio)
    return part.transcript


def _seen(said: str | Audio, role: str) -> dict[str, object]:
    if isinstance(said, Audio):
        return {"type": "input_audio", "transcript": None}
    return {"type": "output_text" if role == "assistant" else "input_text", "text": said}
