"""The items of a realtime conversation, as the client sees them."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from voxtral_worker.engine.tools import ToolCall, ToolResult
from voxtral_worker.errors import BadInput, shown
from voxtral_worker.server.openai.errors import BadOption
from voxtral_worker.sessions.memory import bytes_of_text

# Older items are deleted, and their ids are then unknown.
ITEMS_KEPT = 1024
# The approximate size of an item without its texts.
ITEM_BYTES = 1024
# Items of the user that may wait for an answer.
MAX_UNANSWERED = 64


@dataclass
class Item:
    """A message, a call of a tool, or the result of a call.

    `key` is the name of a user's message in the session.
    """

    item_id: str
    role: str
    content: list[dict[str, Any]] = field(default_factory=list)
    status: str = "completed"
    key: str = ""
    call: ToolCall | None = None
    result: ToolResult | None = None

    def as_object(self) -> dict[str, Any]:
        """The item as a JSON object of OpenAI's."""
        kind, own = self._own()
        return {
            "id": self.item_id,
            "object": "realtime.item",
            "type": kind,
            "status": self.status,
            **own,
        }

    def _own(self) -> tuple[str, dict[str, Any]]:
        if self.call is not None:
            return "function_call", {
                "call_id": self.call.call_id,
                "name": self.call.name,
                "arguments": self.call.arguments,
            }
        if self.result is not None:
            return "function_call_output", {
                "call_id": self.result.call_id,
                "output": self.result.content,
            }
        content = [dict(part) for part in self.content]
        return "message", {"role": self.role, "content": content}

    def texts(self) -> Iterator[str]:
        """All texts, which make up the size of the item."""
        for part in self.content:
            yield from (value for value in part.values() if isinstance(value, str))
        if self.call is not None:
            yield self.call.arguments
        if self.result is not None:
            yield self.result.content


class Items:
    """All items of a conversation that clients can name, in order."""

    def __init__(self) -> None:
        self._items: dict[str, Item] = {}
        self._sizes: dict[str, int] = {}
        # The size of all items.
        self.bytes = 0

    @property
    def last_id(self) -> str | None:
        """The id of the newest item."""
        return next(reversed(self._items), None)

    def before(self, item_id: str) -> str | None:
        """The id of the item before an existing one."""
        ids = list(self._items)
        number = ids.index(item_id)
        return ids[number - 1] if number else None

    def add(self, item: Item) -> str | None:
        """Append an item. Returns the id of the item before it."""
        previous = self.last_id
        self._items[item.item_id] = item
        self.changed(item)
        if len(self._items) > ITEMS_KEPT:
            self.drop_oldest()
        return previous

    def changed(self, item: Item) -> None:
        """Measure an item again, because its texts changed."""
        if item.item_id in self._items:
            size = ITEM_BYTES + sum(bytes_of_text(text) for text in item.texts())
            self.bytes += size - self._sizes.get(item.item_id, 0)
            self._sizes[item.item_id] = size

    def drop_oldest(self) -> None:
        """Delete the oldest item."""
        self.remove(next(iter(self._items.values())))

    def get(self, item_id: object) -> Item:
        """An item by its id. Raises BadOption if there is no such item."""
        if not isinstance(item_id, str) or item_id not in self._items:
            raise BadOption(
                "item_id", f"there is no item {shown(item_id)}", "item_retrieve_invalid_item_id"
            )
        return self._items[item_id]

    def texts_of(self, item_id: object) -> tuple[str, tuple[str, ...]]:
        """The role and the texts of an item. Raises BadOption for audio without a transcript."""
        item = self.get(item_id)
        texts = [part.get("text", part.get("transcript")) for part in item.content]
        if None in texts:
            raise BadOption(
                "item_id", f"the words of {item_id!r} are not known: its audio has no transcript"
            )
        return item.role, tuple(str(text) for text in texts)

    def find(self, item_id: str) -> Item | None:
        """An item by its id, or None."""
        return self._items.get(item_id)

    def remove(self, item: Item) -> None:
        """Delete an item."""
        del self._items[item.item_id]
        self.bytes -= self._sizes.pop(item.item_id)


def new_id(kind: str) -> str:
    """A new id: `item_…`, `resp_…`, `event_…`."""
    return f"{kind}_{uuid.uuid4().hex[:24]}"


def require_room(waiting: int) -> None:
    """Raises BadInput if too many items of the user wait for an answer already."""
    if waiting >= MAX_UNANSWERED:
        raise BadInput(f"{MAX_UNANSWERED} items wait for an answer: ask for a response")
