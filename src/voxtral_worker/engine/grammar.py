"""Writes down as a grammar what an answer may be, and compiles and keeps the grammars of a worker.

llguidance derives from a grammar the set of tokens that may come next. Arguments have the blanks
that `json.dumps` writes, because the model was trained on those. With free
blanks they could be without end.
"""

import json
import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import llguidance
from mistral_common.guidance.tokenizer import MistralLLGTokenizer

from voxtral_worker.engine.request import AnswerSchema
from voxtral_worker.engine.tools import Tool, Toolbox
from voxtral_worker.errors import AtCapacity, BadSchema, EngineFailure, WorkerError

log = logging.getLogger(__name__)

MOST_CALLS = 16
GRAMMARS_KEPT = 64
GRAMMARS_WAITING = 64
# Seconds; the costliest grammars that were found compile in 0.5 s on one busy core.
COMPILE_S = 10.0
# The defaults of llguidance are for one user. With these a step takes 20 ms at most, and a grammar
# 20 MB of memory.
LIMITS = llguidance.LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_lexer_states=10_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)
_WRITTEN = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
# Words that join schemas: the fields of one of them are not all the fields that are allowed.
_JOINING = ("allOf", "anyOf", "oneOf", "$ref", "patternProperties", "if", "unevaluatedProperties")


@dataclass(frozen=True)
class Shape:
    """What an answer must be: calls of these tools, an answer by a schema, or either.

    Without a schema and where no tool must be called, only calls follow a grammar.
    """

    box: Toolbox
    schema: AnswerSchema | None = None

    @property
    def is_free(self) -> bool:
        """Whether no grammar can be needed."""
        return self.schema is None and not self.box.may_call

    @property
    def binds_first(self) -> bool:
        """Whether the grammar decides from the first token on."""
        return self.schema is not None or self.box.must_call

    def grammar(self, call_token: int) -> str:
        """The grammar, in llguidance's dialect of Lark."""
        ways, rules = [], []
        if self.schema is not None and not self.box.must_call:
            ways.append("content")
            rules.append(f"content: %json {self._answer()}")
        if self.box.may_call:
            ways.append("calls")
            rules += self._calls(call_token)
        return "\n".join([f"start: {' | '.join(ways)}", *rules]) + "\n"

    def tool_grammar(self, tool: Tool) -> str:
        """The grammar of the arguments of one tool."""
        return f"start: %json {self._arguments(tool)}\n"

    def answer_grammar(self) -> str:
        """The grammar of an answer by the schema."""
        return f"start: %json {self._answer()}\n"

    def _calls(self, call_token: int) -> list[str]:
        tools = self.box.callable
        more = f' (", " call){{0,{MOST_CALLS - 1}}}' if self.box.parallel else ""
        return [
            f'calls: <[{call_token}]> "[" call{more} "]"',
            "call: " + " | ".join(f"tool_{number}" for number in range(len(tools))),
            *(self._tool(number, tool) for number, tool in enumerate(tools)),
            'id: ", \\"id\\": \\"" /[a-zA-Z0-9]{9}/ "\\""',
        ]

    def _tool(self, number: int, tool: Tool) -> str:
        head = json.dumps(f'{{"name": "{tool.name}", "arguments": ')
        return f'tool_{number}: {head} %json {self._arguments(tool)} id? "}}"'

    def _arguments(self, tool: Tool) -> str:
        # If a call is required, its arguments satisfy the schema, or the caller gets an error.
        schema = {"type": "object", **json.loads(tool.parameters)}
        return _json_schema(schema, is_lenient=not (tool.strict or self.box.must_call))

    def _answer(self) -> str:
        assert self.schema is not None
        return _json_schema(json.loads(self.schema.text), is_lenient=not self.schema.strict)


def _json_schema(schema: dict[str, Any], *, is_lenient: bool) -> str:
    is_closed = "properties" in schema and not any(word in schema for word in _JOINING)
    if is_closed and "additionalProperties" not in schema:
        # A function takes no fields but its own.
        schema = {**schema, "additionalProperties": False}
    guidance = {**_WRITTEN, "lenient": is_lenient, "coerce_one_of": is_lenient}
    return json.dumps({**schema, "x-guidance": guidance})


class Grammar:
    """A compiled grammar. Every response takes a matcher of its own from it."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def matcher(self) -> Any:
        """A new LLMatcher at the beginning of the grammar."""
        return self._matcher.deep_copy()


class Grammars:
    """Compiles grammars on a thread of its own, as that takes up to 0.5 s.

    The most recently used ones are kept. Any thread may ask.
    """

    def __init__(self, tokenizer: Any, call_token: int) -> None:
        """`tokenizer` is mistral-common's Tekkenizer."""
        # The vocabulary, and the token that begins a call of a tool.
        self._tokenizer = tokenizer
        self._call_token = call_token
        # llguidance's own tokenizer. The thread makes it, as that takes seconds; None until then.
        self._llg: Any = None
        # Guards the two dictionaries.
        self._lock = threading.Lock()
        # Compiled grammars, or why there is not one; the most recently used last.
        self._made: OrderedDict[Shape, Grammar | WorkerError] = OrderedDict()
        # Who waits for each; None ends the thread.
        self._waiting: dict[Shape, list[Callable[[], None]]] = {}
        self._asked: queue.Queue[Shape | None] = queue.Queue(GRAMMARS_WAITING)
        self._thread = threading.Thread(target=self._serve, name="grammars", daemon=True)
        # Set once the thread can compile.
        self.is_prepared = threading.Event()

    def start(self) -> None:
        """Start the thread; with a large vocabulary it is ready after some seconds."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread when it has finished the grammar at hand."""
        with suppress(queue.Full):
            self._asked.put_nowait(None)

    def find(self, shape: Shape) -> Grammar | None:
        """The grammar if it is compiled, or None. Raises BadSchema where it cannot be compiled."""
        with self._lock:
            made = self._made.get(shape)
            if made is None:
                return None
            self._made.move_to_end(shape)
        if isinstance(made, WorkerError):
            raise made
        return made

    def ask(self, shape: Shape, tell: Callable[[], None]) -> None:
        """Compile a grammar; `tell` is called once, on any thread, when `find` has the result.

        Raises AtCapacity when too many wait.
        """
        with self._lock:
            if shape not in self._made:
                waiting = self._waiting.get(shape)
                if waiting is not None:
                    waiting.append(tell)
                    return
                try:
                    self._asked.put_nowait(shape)
                except queue.Full:
                    raise AtCapacity("too many schemas wait to be read", retry_after_s=1) from None
                self._waiting[shape] = [tell]
                return
        tell()

    def check(self, shape: Shape, timeout_s: float = COMPILE_S) -> None:
        """Block until the grammar can be used. Raises BadSchema, or AtCapacity."""
        if shape.is_free:
            return
        done = threading.Event()
        self.ask(shape, done.set)
        if not done.wait(timeout_s):
            raise took_too_long(shape)
        self.find(shape)

    def _serve(self) -> None:
        wrapper = llguidance.TokenizerWrapper(MistralLLGTokenizer(self._tokenizer))
        self._llg = llguidance.LLTokenizer(wrapper)
        self.is_prepared.set()
        while (shape := self._asked.get()) is not None:
            made: Grammar | WorkerError
            try:
                made = self._compile(shape)
            except WorkerError as error:
                made = error
            except Exception:  # a library's parser: whatever it raises, others wait
                log.exception("a grammar could not be compiled")
                made = EngineFailure("the schema could not be read")
            with self._lock:
                self._made[shape] = made
                while len(self._made) > GRAMMARS_KEPT:
                    self._made.popitem(last=False)
                waiting = self._waiting.pop(shape, [])
            for tell in waiting:
                tell()

    def _compile(self, shape: Shape) -> Grammar:
        for tool in shape.box.callable:
            what = f"the parameters of the tool {tool.name!r}"
            self._try(shape.tool_grammar(tool), what, "tools")
        if shape.schema is not None and not shape.box.must_call:
            self._try(shape.answer_grammar(), "the schema of the answer", "response_format")
        grammar = shape.grammar(self._call_token)
        return Grammar(self._try(grammar, _named(shape), _field(shape)))

    def _try(self, grammar: str, what: str, field: str) -> Any:
        """A matcher that allows a first token. Raises BadSchema that begins with `what`."""
        matcher = llguidance.LLMatcher(self._llg, grammar, log_level=0, limits=LIMITS)
        if not matcher.is_error():
            first = matcher.deep_copy()
            if any(first.compute_bitmask()) and not first.is_error():
                return matcher
            matcher = first
        told = f"{what} cannot be followed: {_reason(matcher.get_error())}"
        raise BadSchema(told, field)


def took_too_long(shape: Shape) -> BadSchema:
    """The error for a grammar that is not compiled in time."""
    told = f"{_named(shape)} took longer than {COMPILE_S:g} s to read: make it simpler"
    return BadSchema(told, _field(shape))


def _field(shape: Shape) -> str:
    return "tools" if shape.box.callable else "response_format"


def _named(shape: Shape) -> str:
    names = ", ".join(repr(tool.name) for tool in shape.box.callable)
    return f"the parameters of the tools {names}" if names else "the schema of the answer"


def _reason(error: str) -> str:
    """llguidance's reason in one line, without its place in a grammar that callers do not see."""
    line = error.strip().splitlines()[0] if error.strip() else "nothing satisfies it"
    for noise in ("failed to compile JSON schema: ", "at 1(8): "):
        line = line.replace(noise, "")
    return line[:200]
