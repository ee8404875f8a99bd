"""What client events do with the items of a conversation: create, retrieve, delete, truncate."""

import time
from typing import Any

from pydantic import TypeAdapter

from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.dialogue import Said
from voxtral_worker.errors import BadInput
from voxtral_worker.server.driver import Driver
from voxtral_worker.server.openai.errors import BadOption, unsupported
from voxtral_worker.server.openai.parameters import read_parameters
from voxtral_worker.server.openai.realtime.client_event import (
    AudioEnd,
    ContentIndex,
    ConversationItemCreate,
    ConversationItemTruncate,
)
from voxtral_worker.server.openai.realtime.item_options import AnyItem, Decode
from voxtral_worker.server.openai.realtime.items import Item, require_room
from voxtral_worker.server.openai.realtime.reporter import Reporter
from voxtral_worker.sessions.effects import Effect

_ITEM: TypeAdapter[AnyItem] = TypeAdapter(AnyItem)
_INDEX, _END = TypeAdapter(ContentIndex), TypeAdapter(AudioEnd)


class ItemRequests:
    """Changes the conversation of the session, and the items that its client sees with it."""

    def __init__(self, driver: Driver[Any], reporter: Reporter, decode: Decode) -> None:
        self._driver = driver
        self._session = driver.session
        self._reporter = reporter
        self._items = reporter.items
        self._decode = decode

    def create(self, event: ConversationItemCreate) -> None:
        """Add an item at the end. Raises BadInput for one that cannot be read or added."""
        if event.previous_item_id not in (None, self._items.last_id or "root"):
            raise unsupported("previous_item_id", "items can only be added at the end")
        item, said = read_parameters(_ITEM, event.item, ("item",)).made(self._decode)
        if self._items.find(item.item_id) is not None:
            raise BadOption("item.id", f"there is an item {item.item_id!r} already")
        self._driver.perform(self._said(item, said))
        self._reporter.add(item)

    def retrieve(self, item_id: object) -> None:
        """Show an item."""
        item = self._items.get(item_id)
        self._reporter.emit("conversation.item.retrieved", item=item.as_object())

    def delete(self, item_id: object) -> None:
        """Delete an item that was not answered yet."""
        item = self._items.get(item_id)
        effects = self._session.inputs.unsay(item.key)
        if effects is None:
            raise unsupported("item_id", "items that belong to an answer cannot be deleted")
        self._driver.perform(effects)
        self._items.remove(item)
        self._reporter.emit("conversation.item.deleted", item_id=item.item_id)

    def truncate(self, event: ConversationItemTruncate) -> None:
        """Keep only what the client has played of a spoken answer."""
        item = self._items.get(event.item_id)
        turn_id = self._reporter.responses.spoken_turn(item.item_id)
        if turn_id is None:
            raise BadOption("item_id", f"the item {item.item_id!r} is no answer that was spoken")
        index = read_parameters(_INDEX, event.content_index, ("content_index",))
        end_ms = read_parameters(_END, event.audio_end_ms, ("audio_end_ms",))
        try:
            speaking, now_s = self._session.answers.speaking, time.monotonic()
            text = speaking.played(turn_id, end_ms, now_s, is_all=True)
        except BadInput:
            told = f"the item {item.item_id!r} was spoken too long ago to be truncated"
            raise BadOption("item_id", told) from None
        item.content = [{"type": "output_audio", "transcript": text}]
        self._items.changed(item)
        self._reporter.emit(
            "conversation.item.truncated",
            item_id=item.item_id,
            content_index=index,
            audio_end_ms=end_ms,
        )

    def _said(self, item: Item, said: Said[str | Audio]) -> list[Effect]:
        now_s = time.monotonic()
        if item.call is not None:
            return self._session.inputs.remember_call(item.call, now_s)
        if (result := item.result) is not None:
            return self._session.answers.take_result(result.call_id, result.content, now_s)
        if item.role == "assistant":
            # An empty message stands for an answer that was never given.
            text = "".join(part for part in said.parts if isinstance(part, str))
            return self._session.inputs.remember(text) if text else []
        require_room(len(self._session.inputs.pending))
        return self._session.inputs.say(item.item_id, said.parts)
