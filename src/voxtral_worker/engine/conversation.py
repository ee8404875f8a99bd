"""What a prompt is made of, before it is tokens.

Pure values: the session writes them, the engine turns them into tokens. A conversation is
complete in itself, so the engine can recompute it at any time.
"""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtral_worker.engine.tools import NO_TOOLS, Toolbox, ToolCall, ToolResult

SAMPLE_RATE = 16_000
# Between 0 and full loudness, in 16 bits.
INT16_STEPS = 32_768
WINDOW_SAMPLES = 30 * SAMPLE_RATE
# Tokens of a transcript by default: the fastest speakers need about half of them.
TRANSCRIPT_TOKENS_PER_WINDOW = 512

_ids = itertools.count(1)


class Audio:
    """One piece of speech; longer than 30 s, it takes several windows of the encoder.

    `audio_id` is never used twice in a process. The engine makes embeddings of the samples
    whenever it needs them, and stores them under that number.
    """

    def __init__(self, samples: NDArray[np.float32]) -> None:
        """`samples`: float32 of shape [n], 16 kHz, between -1 and 1."""
        self.audio_id = next(_ids)
        # float32, or int16 once it is compact.
        self._held: NDArray[Any] = samples
        self.windows = max(1, -(-len(samples) // WINDOW_SAMPLES))
        self._digest: bytes | None = None

    @property
    def samples(self) -> NDArray[np.float32]:
        """The sound, float32 of shape [n]."""
        # Another thread may compact it at the same time.
        held = self._held
        if held.dtype == np.int16:
            held = held / np.float32(INT16_STEPS)
        return held.astype(np.float32, copy=False)

    @property
    def length(self) -> int:
        """How many samples the sound has."""
        return len(self._held)

    @property
    def nbytes(self) -> int:
        """What the sound takes of the memory."""
        return self._held.nbytes

    def compact(self) -> None:
        """Hold the sound in half of the memory, if it stays the same to the last bit."""
        small = np.empty(len(self._held), np.int16)
        # In pieces, as steps in between take several times as much.
        for start in range(0, len(small), WINDOW_SAMPLES):
            samples = self._held[start : start + WINDOW_SAMPLES]
            steps = samples * np.float32(INT16_STEPS)
            fits = steps.min() >= -INT16_STEPS and steps.max() < INT16_STEPS
            if samples.dtype != np.float32 or not fits:
                return
            piece = small[start : start + WINDOW_SAMPLES]
            piece[:] = steps
            if not np.array_equal(piece, steps):
                return
        self._held = small

    @property
    def transcript_tokens(self) -> int:
        """New tokens that its transcript may take by default."""
        return self.windows * TRANSCRIPT_TOKENS_PER_WINDOW

    @property
    def digest(self) -> bytes:
        """SHA-256 of the sound. Engine thread."""
        if self._digest is None:
            self._digest = hashlib.sha256(self.samples.tobytes()).digest()
        return self._digest


@dataclass(frozen=True)
class UserTurn:
    """What the user said: texts and audio in the order of the content.

    `heard` is what a transcript made of the audio, where there was one; no prompt reads it.
    """

    parts: tuple[str | Audio, ...]
    heard: str = field(default="", compare=False)


@dataclass(frozen=True)
class AssistantTurn:
    """What the user got as an answer: the tokens delivered, or a text from outside.

    `words` is what the tokens read as; no prompt reads it.
    """

    token_ids: tuple[int, ...] = ()
    text: str | None = None
    words: str = field(default="", compare=False)


@dataclass(frozen=True)
class Round:
    """Calls of tools with what they came to, one result a call, and the text before the calls."""

    said: AssistantTurn
    calls: tuple[ToolCall, ...]
    results: tuple[ToolResult, ...]


@dataclass(frozen=True)
class Exchange:
    """A user's turn with its answer, and the rounds of tools between the two.

    History is dropped one exchange at a time.
    """

    user: UserTurn
    assistant: AssistantTurn
    rounds: tuple[Round, ...] = ()


@dataclass(frozen=True)
class Conversation:
    """Everything a response depends on, except chance.

    `rounds` of tools were made since the user's turn. With `transcribe` the prompt asks to write
    down the audio of `user`; history, system prompt and tools do not enter it.
    """

    user: UserTurn
    history: tuple[Exchange, ...] = ()
    system_prompt: str | None = None
    transcribe: bool = False
    language: str | None = None
    rounds: tuple[Round, ...] = ()
    tools: Toolbox = NO_TOOLS


def audio_in(conversation: Conversation) -> Iterator[Audio]:
    """Every piece of audio of a conversation, in the prompt's order."""
    turns = [exchange.user for exchange in conversation.history] + [conversation.user]
    for turn in turns:
        for part in turn.parts:
            if isinstance(part, Audio):
                yield part
