"""What of a session may leave its worker: config, texts and counts, never sound.

Another worker goes on with the conversation from here. Where the words of a spoken turn are
not known, a note stands for them, so that the answer it got still has a question.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from voxtral_worker.engine.conversation import AssistantTurn, Exchange, UserTurn
from voxtral_worker.errors import BadInput
from voxtral_worker.sessions.config import SessionConfig

VERSION = 1
UNKNOWN_WORDS = "[spoken]"


@dataclass(frozen=True)
class SessionRecord:
    """`audio_bytes` is how much audio needs not be sent again; `turns` the ids given away.

    `seqs` has the last sequence number of each line.
    """

    config: SessionConfig
    history: tuple[Exchange, ...]
    turns: int
    seqs: dict[str, int]
    audio_bytes: int
    message_count: int
    error_count: int

    def as_json(self) -> str:
        """The record as a text; only what somebody has set is kept of the config."""
        return json.dumps(
            {
                "version": VERSION,
                "config": {key: getattr(self.config, key) for key in sorted(self.config.given)},
                "history": [[_asked(e.user), _answered(e.assistant)] for e in self.history],
                "turns": self.turns,
                "seqs": self.seqs,
                "audio_bytes": self.audio_bytes,
                "message_count": self.message_count,
                "error_count": self.error_count,
            },
            ensure_ascii=False,
        )


def read_record(text: str | bytes) -> SessionRecord:
    """The record of a text. Raises ValueError for one that this version cannot use."""
    try:
        fields = json.loads(text)
        if fields["version"] != VERSION:
            raise ValueError(f"version {fields['version']} of a session is not known here")
        return SessionRecord(
            SessionConfig().updated(fields["config"]),
            _exchanges(fields["history"]),
            int(fields["turns"]),
            {str(name): int(seq) for name, seq in fields["seqs"].items()},
            int(fields["audio_bytes"]),
            int(fields["message_count"]),
            int(fields["error_count"]),
        )
    except (KeyError, TypeError, AttributeError, BadInput) as error:
        raise ValueError("not the record of a session") from error


def _exchanges(pairs: Sequence[Any]) -> tuple[Exchange, ...]:
    return tuple(
        Exchange(UserTurn((str(asked),)), AssistantTurn(text=str(answered)))
        for asked, answered in pairs
    )


def _asked(turn: UserTurn) -> str:
    texts = [part for part in turn.parts if isinstance(part, str)]
    return " ".join(texts) or turn.heard or UNKNOWN_WORDS


def _answered(turn: AssistantTurn) -> str:
    return turn.words if turn.text is None else turn.text
