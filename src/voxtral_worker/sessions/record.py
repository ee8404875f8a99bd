"""The part of a session that may leave its worker: config, texts and counts, never audio.

Another worker continues the conversation from it. If the words of a spoken turn are not known, a
note takes their place, so that the turn's answer does not stand alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from voxtral_worker.engine.conversation import AssistantTurn, Exchange, Round, UserTurn
from voxtral_worker.engine.tools import ToolCall, ToolResult
from voxtral_worker.errors import BadInput
from voxtral_worker.sessions.config import SessionConfig

VERSION = 1
UNKNOWN_WORDS = "[spoken]"
# Limit for the texts of one record: all workers share the store, and no session may fill it.
MAX_HISTORY_BYTES = 256 * 1024


@dataclass(frozen=True)
class SessionRecord:
    """The state from which another worker continues a session."""

    # Only the options that the caller has set are written.
    config: SessionConfig
    # Exchanges without audio, the oldest first.
    history: tuple[Exchange, ...]
    # How many turn ids were given.
    turns: int
    # The last sequence number of each channel.
    seqs: dict[str, int]
    # Bytes of audio that the client need not send again.
    audio_bytes: int
    # Messages that clients have sent, and errors that were sent to them.
    message_count: int
    error_count: int
    # The subject of the JWT that created the session; None: any API key or JWT opens it.
    owner: str | None = None

    def as_json(self) -> str:
        """The record as JSON.

        It has only those options that a caller has set: the next worker may have other defaults.
        Of a long history it has the latest exchanges, at most `MAX_HISTORY_BYTES`.
        """
        return json.dumps(
            {
                "version": VERSION,
                "config": {
                    key: value
                    for key, value in self.config.as_dict().items()
                    if key in self.config.given
                },
                "history": _latest(self.history),
                "turns": self.turns,
                "seqs": self.seqs,
                "audio_bytes": self.audio_bytes,
                "message_count": self.message_count,
                "error_count": self.error_count,
                "owner": self.owner,
            },
            ensure_ascii=False,
        )


def _latest(history: Sequence[Exchange]) -> list[list[Any]]:
    """The latest exchanges that fit a record, the oldest first."""
    # From the newest backwards, until the limit is reached.
    pairs: list[list[Any]] = []
    room = MAX_HISTORY_BYTES
    for exchange in reversed(history):
        pair: list[Any] = [_asked(exchange.user), _answered(exchange.assistant)]
        if exchange.rounds:
            pair.append([_round_as_json(made) for made in exchange.rounds])
        # A lone surrogate, which JSON from a client may hold, has no UTF-8 form of its own.
        room -= len(json.dumps(pair, ensure_ascii=False).encode(errors="surrogatepass"))
        if room < 0:
            break
        pairs.append(pair)
    return pairs[::-1]


def read_record(text: str | bytes) -> SessionRecord:
    """Read a record from JSON. Raises ValueError if this version cannot use it."""
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
            _owner(fields.get("owner")),
        )
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError, BadInput) as error:
        raise ValueError("not the record of a session") from error


def _owner(value: object) -> str | None:
    if not isinstance(value, str | None):
        # Do not read a broken owner as None: any credential could then open the session.
        raise TypeError
    return value


def _exchanges(pairs: Sequence[Any]) -> tuple[Exchange, ...]:
    return tuple(
        Exchange(
            UserTurn((str(asked),)),
            AssistantTurn(text=str(answered)),
            tuple(_round(made) for made in (rounds[0] if rounds else ())),
        )
        for asked, answered, *rounds in pairs
    )


def _round_as_json(made: Round) -> dict[str, Any]:
    return {
        "said": _answered(made.said),
        "calls": [[call.call_id, call.name, call.arguments] for call in made.calls],
        "results": [[result.call_id, result.content] for result in made.results],
    }


def _round(made: Any) -> Round:
    return Round(
        AssistantTurn(text=str(made["said"])),
        tuple(ToolCall(str(i), str(name), str(text)) for i, name, text in made["calls"]),
        tuple(ToolResult(str(i), str(content)) for i, content in made["results"]),
    )


def _asked(turn: UserTurn) -> str:
    texts = [part for part in turn.parts if isinstance(part, str)]
    return " ".join(texts) or turn.heard or UNKNOWN_WORDS


def _answered(turn: AssistantTurn) -> str:
    return turn.words if turn.text is None else turn.text
