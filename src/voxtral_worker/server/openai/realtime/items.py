"""The items of a realtime conversation, as the client sees them."""

import uuid
from dataclasses import dataclass, field
from typing import Any

from voxtral_worker.server.openai.errors import BadOption
from voxtral_worker.server.openai.options import shown

# Older ones can no longer be asked for by their ids.
ITEMS_KEPT = 1024


@dataclass
class Item:
    """One message of a side; the session knows the user's under `key`."""

    item_id: str
    role: str
    content: list[dict[str, Any]] = field(default_factory=list)
    status: str = "completed"
    key: str = ""

    def as_object(self) -> dict[str, Any]:
        """As OpenAI shows it."""
        return {
            "id": self.item_id,
            "object": "realtime.item",
            "type": "message",
            "status": self.status,
            "role": self.role,
            "content": [dict(part) for part in self.content],
        }


class Items:
    """In the order of the conversation."""

    def __init__(self) -> None:
        self._items: dict[str, Item] = {}

    @property
    def last_id(self) -> str | None:
        """The newest."""
        return next(reversed(self._items), None)

    def add(self, item: Item) -> str | None:
        """Put an item behind all others; the id of the one before it."""
        previous = self.last_id
        self._items[item.item_id] = item
        if len(self._items) > ITEMS_KEPT:
            del self._items[next(iter(self._items))]
        return previous

    def get(self, item_id: object) -> Item:
        """Raises BadOption."""
        if not isinstance(item_id, str) or item_id not in self._items:
            raise BadOption("item_id", f"there is no item {shown(item_id)}", "item_not_found")
        return self._items[item_id]

    def find(self, item_id: str) -> Item | None:
        """The item, if it is still there."""
        return self._items.get(item_id)

    def remove(self, item: Item) -> None:
        """Take an item out."""
        del self._items[item.item_id]


def new_id(kind: str) -> str:
    """`item_…`, `resp_…`, `event_…`."""
    return f"{kind}_{uuid.uuid4().hex[:24]}"
