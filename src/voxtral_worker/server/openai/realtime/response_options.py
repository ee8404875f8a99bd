"""What one response of the realtime API has of its own."""

from collections.abc import Callable
from typing import Annotated, Literal, TypeAlias

from pydantic_core import core_schema

from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.dialogue import Said
from voxtral_worker.engine.tools import Toolbox
from voxtral_worker.server.openai.errors import told_of
from voxtral_worker.server.openai.parameters import Parameters, ignored, keys, unsupported_key
from voxtral_worker.server.openai.realtime.item_options import (
    AnyInput,
    Decode,
    ItemReference,
    Text,
)
from voxtral_worker.server.openai.realtime.session_options import (
    Modalities,
    MostTokens,
)
from voxtral_worker.server.openai.tools import TOOL_KEYS, Parallel, ToolChoice, Tools, offered
from voxtral_worker.values.may import CHOICE, Filled, May

MAX_INPUT_ITEMS = 64
MAX_METADATA = 16
MAX_METADATA_KEY_CHARACTERS = 64
MAX_METADATA_CHARACTERS = 512

# Returns the role and the texts of an item by its id, or raises BadOption.
Refer: TypeAlias = Callable[[object], tuple[str, tuple[str, ...]]]
_METADATA = May(
    f"an object of at most {MAX_METADATA} texts of at most {MAX_METADATA_CHARACTERS} characters, "
    f"under keys of at most {MAX_METADATA_KEY_CHARACTERS}",
    core_schema.dict_schema(
        core_schema.str_schema(max_length=MAX_METADATA_KEY_CHARACTERS),
        core_schema.str_schema(max_length=MAX_METADATA_CHARACTERS, strict=True),
        max_length=MAX_METADATA,
    ),
)


class ResponseOptions(Parameters):
    """The options of one response; the session has the others."""

    extras = {
        # These do not change the answers of this worker.
        **keys(ignored, "audio prompt reasoning"),
        **keys(unsupported_key(), "modalities"),
    }
    instructions: Text | None = None
    max_output_tokens: MostTokens | None = None
    metadata: Annotated[dict[str, str], _METADATA] | None = None
    # What is answered in place of the conversation.
    input: (
        Annotated[
            list[AnyInput],
            Filled(f"a list of at most {MAX_INPUT_ITEMS} items", "", MAX_INPUT_ITEMS, least=0),
        ]
        | None
    ) = None
    # With `none` the answer is not part of the conversation.
    conversation: Annotated[Literal["auto", "none"], CHOICE] = "auto"
    tools: Tools | None = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: Parallel = None
    output_modalities: Modalities | None = None

    @property
    def joins(self) -> bool:
        """Whether the answer is part of the conversation."""
        return self.conversation != "none"

    @property
    def speaks(self) -> bool | None:
        """Whether the answer is speech; None: as the session."""
        return None if self.output_modalities is None else "audio" in self.output_modalities

    def context(self, decode: Decode, refer: Refer) -> list[Said[str | Audio]] | None:
        """The input as the model reads it. Raises BadOption or TooLarge."""
        if self.input is None:
            return None
        return [
            Said[str | Audio](*refer(item.id))
            if isinstance(item, ItemReference)
            else item.made(decode)[1]
            for item in self.input
        ]

    def toolbox(self, of_session: Toolbox) -> Toolbox | None:
        """The tools that it offers; None: those of the session. Raises BadOption."""
        if not self.model_fields_set & {*TOOL_KEYS}:
            return None
        said, name = (
            (self.tools, self.tool_choice, self.parallel_tool_calls),
            "response.tool_choice",
        )
        with told_of(name):
            return offered(*said, name, of_session)
