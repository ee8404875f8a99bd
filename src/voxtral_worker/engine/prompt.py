"""Turns a conversation into the token ids that the model was trained on.

The layouts are those of mistral-common's v7 instruct tokenizer, which a test compares
token for token. They are built here because a session's prompt grows by one turn at a
time and holds the very tokens that were generated, while the library starts from texts
and encoded audio files each time:

    chat         <s> [INST] [BEGIN_AUDIO] [AUDIO]*N text [/INST] answer </s> [INST] ...
    transcribe   <s> [INST] [BEGIN_AUDIO] [AUDIO]*N [/INST] lang:en [TRANSCRIBE]
    system text  <s> [SYSTEM_PROMPT] ... [/SYSTEM_PROMPT] [INST] ...      (no audio anywhere)
    tools        ... [AVAILABLE_TOOLS] [{...}] [/AVAILABLE_TOOLS] [INST] ...  (the last turn only)
    a round      text [TOOL_CALLS] [{...}] </s> [TOOL_RESULTS] id [TOOL_CONTENT] ... [/TOOL_RESULTS]

Tools stand before the user's last turn and disappear from the one before: that is how the model
was trained, so what the KV cache holds of the last exchange is computed again.
"""

import dataclasses
import itertools
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from voxtral_worker.engine.conversation import (
    AssistantTurn,
    Audio,
    Conversation,
    Round,
    UserTurn,
    audio_in,
)
from voxtral_worker.engine.layout import EXACT, Layout, layout_of
from voxtral_worker.engine.tools import calls_json, tools_json
from voxtral_worker.errors import BadInput, TooLarge

# The version of the tokenizer whose layout of tools is written here.
TOOLS_VERSION = "v7"

# Room for the tokens of one piece of audio between the keys of two.
_KEYS_PER_AUDIO = 1 << 20


class Tokenizer(Protocol):
    """The part of mistral-common's Tekkenizer that is used here."""

    bos_id: int
    eos_id: int

    @property
    def version(self) -> Any:
        """An enum whose value is like `v7`."""

    def encode(self, s: str, bos: bool, eos: bool) -> list[int]:
        """Ids of a text; control strings in it are plain text."""

    def get_special_token(self, s: str) -> int:
        """Id of a control token by its name."""


@dataclass(frozen=True)
class Span:
    """A piece of audio whose embeddings are the rows [start, stop) of a prompt."""

    start: int
    audio: Audio
    layout: Layout

    @property
    def stop(self) -> int:
        """The row behind its last one."""
        return self.start + self.layout.rows


@dataclass(frozen=True)
class Prompt:
    """Token ids, with `audio_token_id` in every row that an audio embedding takes.

    `audio` lists the pieces whose embeddings go there, in order; `spans` says where each
    stands. `keys` names the rows: their ids, and for audio negative numbers that no other
    audio of this process ever has. `trimmed` counts the oldest exchanges that were left out
    because they did not fit.

    The place of a row in the prompt is its index. The model rotates keys by the row's position,
    which is further on by the positions that were left out of the windows before it.
    """

    ids: tuple[int, ...]
    audio: tuple[Audio, ...]
    trimmed: int = 0
    audio_token_id: int = -1
    window_tail: str = EXACT

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """Where each piece of audio stands."""
        spans, at = [], 0
        for audio in self.audio:
            layout = layout_of(audio.length, self.window_tail)
            spans.append(Span(self.ids.index(self.audio_token_id, at), audio, layout))
            at = spans[-1].stop
        return tuple(spans)

    @cached_property
    def keys(self) -> tuple[int, ...]:
        """The key of each row."""
        keys = list(self.ids)
        for span in self.spans:
            first = span.audio.audio_id * _KEYS_PER_AUDIO
            keys[span.start : span.stop] = [-first - i for i in range(span.layout.rows)]
        return tuple(keys)

    @cached_property
    def positions(self) -> tuple[int, ...]:
        """The position of each row."""
        positions: list[int] = []
        ahead = 0
        for span in self.spans:
            positions += range(len(positions) + ahead, span.start + ahead)
            positions += [span.start + ahead + place for place in span.layout.places]
            ahead += span.layout.span - span.layout.rows
        return (*positions, *range(len(positions) + ahead, len(self.ids) + ahead))

    @property
    def skipped(self) -> int:
        """Positions that no row takes."""
        return sum(span.layout.span - span.layout.rows for span in self.spans)

    @property
    def audio_rows(self) -> int:
        """Rows that are audio."""
        return sum(span.layout.rows for span in self.spans)

    @cached_property
    def log_weights(self) -> tuple[float, ...]:
        """What is added to the scores of attention to each row."""
        weights = [0.0] * len(self.ids)
        for span in self.spans:
            weights[span.start : span.stop] = span.layout.log_weights
        return tuple(weights)

    @cached_property
    def weighted_from(self) -> int:
        """The first row with a weight; beyond all rows where no row has one."""
        return next((row for row, weight in enumerate(self.log_weights) if weight), sys.maxsize)


@dataclass(frozen=True)
class Room:
    """How long a prompt may be: positions of the context, and rows of the KV cache."""

    positions: int
    rows: int

    def holds(self, rows: int, skipped: int) -> bool:
        """Whether `rows` fit, when `skipped` positions are left out between them."""
        return rows <= self.rows and rows + skipped <= self.positions

    def require(self, rows: int, skipped: int) -> None:
        """Raise TooLarge unless they fit."""
        if rows + skipped > self.positions:
            raise TooLarge(
                f"the prompt has {rows + skipped} tokens, "
                f"but the context has room for {self.positions}"
            )
        if rows > self.rows:
            raise TooLarge(
                f"the prompt has {rows} tokens, but the KV cache has room for {self.rows}"
            )


class PromptEncoder:
    """Knows the control tokens of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, window_tail: str = EXACT) -> None:
        """`window_tail`: see layout_of."""
        # The vocabulary, and how many rows a window of audio has: see `layout_of`.
        self._tokenizer = tokenizer
        self._window_tail = window_tail
        special = tokenizer.get_special_token
        # Stands for one row of audio. The ids below mark where audio, turns and instructions begin
        # and end.
        self.audio_token_id = special("[AUDIO]")
        self._begin_audio = special("[BEGIN_AUDIO]")
        self._inst, self._end_inst = special("[INST]"), special("[/INST]")
        self._system, self._end_system = special("[SYSTEM_PROMPT]"), special("[/SYSTEM_PROMPT]")
        self._transcribe = special("[TRANSCRIBE]")
        # Only one version of the tokenizer knows how to write tools.
        self._version = str(getattr(tokenizer.version, "value", tokenizer.version))

    def encode(self, conversation: Conversation, room: int, rows: int | None = None) -> Prompt:
        """Ids of the conversation, of at most `room` positions and `rows` rows.

        The oldest exchanges are dropped, whole, until the rest fits. Raises TooLarge when
        the last turn alone is too long.
        """
        if not conversation.transcribe:
            self._require_tools(conversation)
        limits = Room(room, room if rows is None else rows)
        if conversation.transcribe:
            ids = self._transcription(conversation)
            return self._prompt(ids, _audio_of(conversation.user), 0, limits)
        kept, ids = self._newest(conversation, limits)
        trimmed = len(conversation.history) - len(kept.history)
        return self._prompt(ids, list(audio_in(kept)), trimmed, limits)

    def _newest(self, conversation: Conversation, room: Room) -> tuple[Conversation, list[int]]:
        """The conversation with as many of its newest exchanges as fit, and its ids.

        Every exchange is tokenised once, the newest first, until no older one can fit.
        Tokenising the rest again for each dropped one took minutes for long histories.
        """
        turns = [
            [
                *self._tools(conversation),
                *self._user(conversation.user, None),
                *self._rounds(conversation.rounds),
            ]
        ]
        length, skipped = 1 + len(turns[0]), self._skipped(conversation.user)
        has_audio = any(True for _ in audio_in(Conversation(conversation.user)))
        system = [self._system_text(conversation, beside) for beside in (False, True)]
        best, with_audio = 1, has_audio
        for exchange in reversed(conversation.history):
            turns.append(
                [
                    *self._user(exchange.user, None),
                    *self._rounds(exchange.rounds),
                    *self._assistant(exchange.assistant),
                ]
            )
            length += len(turns[-1])
            skipped += self._skipped(exchange.user)
            if not room.holds(length, skipped):
                break
            has_audio = has_audio or any(isinstance(part, Audio) for part in exchange.user.parts)
            # Only a system text is not counted above: where it stands depends on audio.
            if room.holds(length + len(system[has_audio]), skipped):
                best, with_audio = len(turns), has_audio
        history = conversation.history[len(conversation.history) + 1 - best :]
        kept = dataclasses.replace(conversation, history=history)
        return kept, self._joined(system[with_audio], turns[:best], with_audio)

    def _joined(self, system: list[int], turns: list[list[int]], has_audio: bool) -> list[int]:
        """Ids of turns, the newest first, with those of the system text."""
        ids = list(itertools.chain.from_iterable(reversed(turns)))
        # v7 refuses a system prompt together with audio, so it opens the first user turn.
        at = ids.index(self._inst) + 1 if has_audio and system else 0
        return [self._tokenizer.bos_id, *ids[:at], *system, *ids[at:]]

    def _system_text(self, conversation: Conversation, has_audio: bool) -> list[int]:
        system = conversation.system_prompt
        if not system:
            return []
        if has_audio:
            return self._text(system + "\n\n")
        return [self._system, *self._text(system), self._end_system]

    def _prompt(self, ids: list[int], audio: list[Audio], trimmed: int, room: Room) -> Prompt:
        prompt = Prompt(tuple(ids), tuple(audio), trimmed, self.audio_token_id, self._window_tail)
        room.require(len(ids), prompt.skipped)
        return prompt

    def _skipped(self, turn: UserTurn) -> int:
        """Positions of a turn's audio that no row takes."""
        layouts = [layout_of(piece.length, self._window_tail) for piece in _audio_of(turn)]
        return sum(layout.span - layout.rows for layout in layouts)

    def _transcription(self, conversation: Conversation) -> list[int]:
        ids = [self._tokenizer.bos_id, *self._user(conversation.user, None)]
        if conversation.language is not None:
            ids += self._text(f"lang:{conversation.language}")
        return [*ids, self._transcribe]

    def _user(self, turn: UserTurn, before: str | None) -> list[int]:
        ids = [self._inst]
        if before is not None:
            ids += self._text(before)
        for part in turn.parts:
            if isinstance(part, Audio):
                ids.append(self._begin_audio)
                rows = layout_of(part.length, self._window_tail).rows
                ids += [self.audio_token_id] * rows
            else:
                ids += self._text(part)
        return [*ids, self._end_inst]

    def _assistant(self, turn: AssistantTurn) -> list[int]:
        return [*self._said(turn), self._tokenizer.eos_id]

    def _said(self, turn: AssistantTurn) -> list[int]:
        return list(turn.token_ids) if turn.text is None else self._text(turn.text.rstrip(" "))

    def _require_tools(self, conversation: Conversation) -> None:
        """Raises BadInput where tools would have to be written in a layout that is not known."""
        has_rounds = conversation.rounds or any(each.rounds for each in conversation.history)
        if (conversation.tools.tools or has_rounds) and self._version != TOOLS_VERSION:
            raise BadInput(
                f"tools are not offered with this model: its tokenizer is {self._version}, and "
                f"only {TOOLS_VERSION} is known to this worker"
            )

    def _tools(self, conversation: Conversation) -> list[int]:
        tools = conversation.tools.tools
        if not tools:
            return []
        special = self._tokenizer.get_special_token
        begin, end = special("[AVAILABLE_TOOLS]"), special("[/AVAILABLE_TOOLS]")
        return [begin, *self._text(tools_json(tools)), end]

    def _rounds(self, rounds: tuple[Round, ...]) -> list[int]:
        """Rounds as they were trained, ids included, whatever the model had written itself."""
        ids: list[int] = []
        special = self._tokenizer.get_special_token
        for each in rounds:
            ids += [*self._said(each.said), special("[TOOL_CALLS]")]
            ids += [*self._text(calls_json(each.calls)), self._tokenizer.eos_id]
            for result in each.results:
                ids += [special("[TOOL_RESULTS]"), *self._text(result.call_id)]
                ids += [special("[TOOL_CONTENT]"), *self._text(result.content)]
                ids.append(special("[/TOOL_RESULTS]"))
        return ids

    def _text(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, bos=False, eos=False)


def _audio_of(turn: UserTurn) -> list[Audio]:
    return [part for part in turn.parts if isinstance(part, Audio)]
