"""Turns a conversation into the token ids that the model was trained on.

The layouts are those of mistral-common's v7 instruct tokenizer, which a test compares
token for token. They are built here because a session's prompt grows by one turn at a
time and holds the very tokens that were generated, while the library starts from texts
and encoded audio files each time:

    chat         <s> [INST] [BEGIN_AUDIO] [AUDIO]*N text [/INST] answer </s> [INST] ...
    transcribe   <s> [INST] [BEGIN_AUDIO] [AUDIO]*N [/INST] lang:en [TRANSCRIBE]
    system text  <s> [SYSTEM_PROMPT] ... [/SYSTEM_PROMPT] [INST] ...      (no audio anywhere)
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from voxtral_worker.engine.conversation import (
    AssistantTurn,
    Audio,
    Conversation,
    UserTurn,
    audio_in,
)
from voxtral_worker.errors import TooLarge

# Room for the tokens of one piece of audio between the keys of two.
_KEYS_PER_AUDIO = 1 << 20


class Tokenizer(Protocol):
    """What is used of mistral-common's Tekkenizer."""

    bos_id: int
    eos_id: int

    def encode(self, s: str, bos: bool, eos: bool) -> list[int]:
        """Ids of a text; control strings in it are plain text."""

    def get_special_token(self, s: str) -> int:
        """Id of a control token by its name."""


@dataclass(frozen=True)
class Prompt:
    """Token ids, with `audio_token_id` at every place that an audio embedding takes.

    `audio` lists the pieces whose embeddings go there, in order; `spans` says where each
    begins. `keys` names the tokens: their ids, and for audio negative numbers that no other
    audio of this process ever has. `trimmed` counts the oldest exchanges that were left out
    because they did not fit.
    """

    ids: tuple[int, ...]
    audio: tuple[Audio, ...]
    trimmed: int = 0
    audio_token_id: int = -1

    @cached_property
    def spans(self) -> tuple[tuple[int, Audio], ...]:
        """Where each piece of audio begins."""
        spans, at = [], 0
        for audio in self.audio:
            at = self.ids.index(self.audio_token_id, at)
            spans.append((at, audio))
            at += audio.tokens
        return tuple(spans)

    @cached_property
    def keys(self) -> tuple[int, ...]:
        """What each token is."""
        keys = list(self.ids)
        for start, audio in self.spans:
            first = audio.audio_id * _KEYS_PER_AUDIO
            keys[start : start + audio.tokens] = [-first - i for i in range(audio.tokens)]
        return tuple(keys)


class PromptEncoder:
    """Knows the control tokens of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        special = tokenizer.get_special_token
        self.audio_token_id = special("[AUDIO]")
        self._begin_audio = special("[BEGIN_AUDIO]")
        self._inst, self._end_inst = special("[INST]"), special("[/INST]")
        self._system, self._end_system = special("[SYSTEM_PROMPT]"), special("[/SYSTEM_PROMPT]")
        self._transcribe = special("[TRANSCRIBE]")

    def encode(self, conversation: Conversation, room: int) -> Prompt:
        """Ids of the conversation, at most `room` of them.

        The oldest exchanges are let go, whole, until the rest fits. Raises TooLarge when
        the last turn alone is too long.
        """
        if conversation.transcribe:
            ids = self._transcription(conversation)
            return self._prompt(_within(ids, room), _audio_of(conversation.user), 0)
        for trimmed in range(len(conversation.history) + 1):
            kept = Conversation(
                conversation.user,
                conversation.history[trimmed:],
                conversation.system_prompt,
                language=conversation.language,
            )
            # Audio alone is a lower bound that costs nothing: long histories are not tokenised
            # once for every exchange that has to go.
            audio_tokens = sum(audio.tokens for audio in audio_in(kept))
            if audio_tokens > room and trimmed < len(conversation.history):
                continue
            ids = self._chat(kept)
            if len(ids) <= room:
                return self._prompt(ids, list(audio_in(kept)), trimmed)
        return self._prompt(_within(ids, room), [], 0)

    def _prompt(self, ids: list[int], audio: list[Audio], trimmed: int) -> Prompt:
        return Prompt(tuple(ids), tuple(audio), trimmed, self.audio_token_id)

    def _chat(self, conversation: Conversation) -> list[int]:
        ids = [self._tokenizer.bos_id]
        system = conversation.system_prompt
        in_first_turn = None
        if system and any(True for _ in audio_in(conversation)):
            # v7 refuses a system prompt beside audio, so it opens the first user turn.
            in_first_turn = system + "\n\n"
        elif system:
            ids += [self._system, *self._text(system), self._end_system]
        for exchange in conversation.history:
            ids += self._user(exchange.user, in_first_turn)
            ids += self._assistant(exchange.assistant)
            in_first_turn = None
        return ids + self._user(conversation.user, in_first_turn)

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
                ids += [self.audio_token_id] * part.tokens
            else:
                ids += self._text(part)
        return [*ids, self._end_inst]

    def _assistant(self, turn: AssistantTurn) -> list[int]:
        ids = turn.token_ids if turn.text is None else self._text(turn.text.rstrip(" "))
        return [*ids, self._tokenizer.eos_id]

    def _text(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, bos=False, eos=False)


def _audio_of(turn: UserTurn) -> list[Audio]:
    return [part for part in turn.parts if isinstance(part, Audio)]


def _within(ids: list[int], room: int) -> list[int]:
    if len(ids) > room:
        raise TooLarge(f"the prompt has {len(ids)} tokens, but the context has room for {room}")
    return ids
