"""Reads the calls of tools that a model writes, as they come.

The model was trained to write one JSON array behind the token `[TOOL_CALLS]`:

    [{"name": "set_device", "arguments": {"on": true}, "id": "abcdefgh1"}, ...]

None of it is text for the user. The parser reports events: the name as soon as it is whole, the
arguments as they come, and the end of each call.
"""

import json
from collections.abc import Callable, Collection
from enum import Enum, auto

from voxtral_worker.engine.request import ArgumentsDelta, CallEvent, CallFinished, CallStarted
from voxtral_worker.engine.tools import new_call_id
from voxtral_worker.errors import ToolCallInvalid

_BLANKS = " \t\n\r"


class _Expects(Enum):
    """What may come next."""

    ARRAY = auto()
    CALL_OR_END = auto()
    CALL = auto()
    COMMA_OR_END = auto()
    KEY = auto()
    COLON = auto()
    VALUE = auto()
    COMMA_OR_BRACE = auto()
    NOTHING = auto()


class CallParser:
    """Reads the calls of one response. Raises ToolCallInvalid for calls of tools not on offer.

    The worker makes the ids of calls, as the ids that the model writes are not unique.
    """

    def __init__(self, names: Collection[str], make_id: Callable[[], str] = new_call_id) -> None:
        self._names = frozenset(names)
        self._make_id = make_id
        self._expects = _Expects.ARRAY
        self._events: list[CallEvent] = []
        self._index = -1
        self._begin_call()

    @property
    def is_whole(self) -> bool:
        """Whether the array is closed."""
        return self._expects is _Expects.NOTHING and self._index >= 0

    @property
    def calls(self) -> int:
        """How many calls have begun."""
        return self._index + 1

    def push(self, text: str) -> list[CallEvent]:
        """Read more text; returns the events that are complete with it."""
        for character in text:
            self._take(character)
        self._tell_arguments()
        events, self._events = self._events, []
        return events

    def _begin_call(self) -> None:
        self._name: str | None = None
        self._arguments: str | None = None
        self._told = 0
        self._key = ""
        # The value being read, how many brackets are open in it, and whether a string is.
        self._raw: str | None = None
        self._open = 0
        self._in_text = self._escapes = False

    def _take(self, character: str) -> None:
        if self._raw is not None:
            self._take_value(character)
        elif character not in _BLANKS:
            self._take_mark(character)

    def _take_mark(self, mark: str) -> None:
        match self._expects, mark:
            case _Expects.ARRAY, "[":
                self._expects = _Expects.CALL_OR_END
            case ((_Expects.CALL_OR_END | _Expects.CALL), "{"):
                self._index += 1
                self._begin_call()
                self._expects = _Expects.KEY
            case ((_Expects.CALL_OR_END | _Expects.COMMA_OR_END), "]"):
                self._expects = _Expects.NOTHING
            case _Expects.COMMA_OR_END, ",":
                self._expects = _Expects.CALL
            case _Expects.KEY, '"':
                self._begin_value(mark)
            case _Expects.COLON, ":":
                self._expects = _Expects.VALUE
            case _Expects.VALUE, _:
                self._begin_value(mark)
            case _Expects.COMMA_OR_BRACE, ",":
                self._expects = _Expects.KEY
            case _Expects.COMMA_OR_BRACE, "}":
                self._end_call()
            case _:
                raise ToolCallInvalid("the model wrote a call of a tool that is not JSON")

    def _begin_value(self, first: str) -> None:
        self._raw, self._open = "", 0
        self._in_text = self._escapes = False
        self._take_value(first)

    def _take_value(self, character: str) -> None:
        assert self._raw is not None
        if self._in_text:
            self._raw += character
            if self._escapes:
                self._escapes = False
            elif character == "\\":
                self._escapes = True
            elif character == '"':
                self._in_text = False
                self._end_value_if_closed()
            return
        if not self._open and (character in ",}]" or character in _BLANKS):
            # A number or a word ends with the character behind it.
            self._end_value()
            self._take(character)
            return
        self._raw += character
        if character == '"':
            self._in_text = True
        elif character in "{[":
            self._open += 1
        elif character in "}]":
            self._open -= 1
            self._end_value_if_closed()

    def _end_value_if_closed(self) -> None:
        if not self._open:
            self._end_value()

    def _end_value(self) -> None:
        raw, self._raw = self._raw, None
        assert raw is not None
        if self._expects is _Expects.KEY:
            self._key, self._expects = str(_read(raw)), _Expects.COLON
            return
        self._expects = _Expects.COMMA_OR_BRACE
        if self._key == "name" and self._name is None:
            self._start(_read(raw))
        elif self._key == "arguments" and self._arguments is None:
            self._arguments = raw

    def _start(self, name: object) -> None:
        if not isinstance(name, str) or name not in self._names:
            raise ToolCallInvalid("the model called a tool that is not offered")
        self._name = name
        self._events.append(CallStarted(self._index, self._make_id(), name))

    def _tell_arguments(self) -> None:
        """Report new text of the arguments; it is held back until the name is known."""
        if self._name is None:
            return
        read = self._arguments
        if read is None and self._expects is _Expects.VALUE and self._key == "arguments":
            read = self._raw
        if read is not None and len(read) > self._told:
            self._events.append(ArgumentsDelta(self._index, read[self._told :]))
            self._told = len(read)

    def _end_call(self) -> None:
        arguments = self._arguments
        if self._name is None or arguments is None or not isinstance(_read(arguments), dict):
            raise ToolCallInvalid("the model wrote a call of a tool without name or arguments")
        self._tell_arguments()
        self._events.append(CallFinished(self._index, arguments))
        self._expects = _Expects.COMMA_OR_END


def _read(raw: str) -> object:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise ToolCallInvalid("the model wrote a call of a tool that is not JSON") from None
