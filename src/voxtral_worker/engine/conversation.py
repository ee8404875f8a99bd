"""What a prompt is made of, before it is tokens.

Pure values: the session writes them, the engine turns them into tokens. A conversation is
complete in itself, so the engine can recompute it at any time.
"""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
WINDOW_SAMPLES = 30 * SAMPLE_RATE
AUDIO_TOKENS_PER_WINDOW = 375

_ids = itertools.count(1)


class Audio:
    """One piece of speech; longer than 30 s, it takes several windows of the encoder.

    `audio_id` is never used twice in a process. The samples are held only until the engine
    has encoded them. `embeddings` (float, [375 * windows, hidden size]) belong to the engine
    thread, which fills them once.
    """

    def __init__(self, samples: NDArray[np.float32]) -> None:
        """`samples`: float32 of shape [n], 16 kHz, between -1 and 1."""
        self.audio_id = next(_ids)
        self.samples = samples
        self.windows = max(1, -(-len(samples) // WINDOW_SAMPLES))
        self._digest: bytes | None = None
        self.embeddings: object | None = None

    @property
    def tokens(self) -> int:
        """Tokens it takes in a prompt."""
        return self.windows * AUDIO_TOKENS_PER_WINDOW

    @property
    def digest(self) -> bytes:
        """SHA-256 of the sound, also when its samples are no longer held. Engine thread."""
        if self._digest is None:
            self._digest = hashlib.sha256(self.samples.tobytes()).digest()
        return self._digest

    def let_go_of_samples(self) -> None:
        """Engine thread: the embeddings are made, the sound itself is not needed again."""
        # While it can still be told from others: an answer may be cached under it later.
        _ = self.digest
        self.samples = np.zeros(0, np.float32)


def windows_of(samples: NDArray[np.float32]) -> tuple[Audio, ...]:
    """Cut audio (float32, [n], 16 kHz) into pieces of one window; the last may be shorter."""
    return tuple(
        Audio(samples[start : start + WINDOW_SAMPLES])
        for start in range(0, max(len(samples), 1), WINDOW_SAMPLES)
    )


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
class Exchange:
    """A user's turn with its answer; history is let go one exchange at a time."""

    user: UserTurn
    assistant: AssistantTurn


@dataclass(frozen=True)
class Conversation:
    """Everything a response depends on, except chance.

    With `transcribe` the prompt asks to write down the audio of `user`; history and system
    prompt do not enter it.
    """

    user: UserTurn
    history: tuple[Exchange, ...] = ()
    system_prompt: str | None = None
    transcribe: bool = False
    language: str | None = None


def audio_in(conversation: Conversation) -> Iterator[Audio]:
    """Every piece of audio of a conversation, in the prompt's order."""
    turns = [exchange.user for exchange in conversation.history] + [conversation.user]
    for turn in turns:
        for part in turn.parts:
            if isinstance(part, Audio):
                yield part
