"""What of a session may leave its worker: config, texts and counts, never sound.

Another worker goes on with the conversation from here. Where the words of a spoken turn are
not known, a note stands for them, so that the answer it got still has a question.
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
# Of the words of a record: workers share the store, and none may fill it alone.
MAX_HISTORY_BYTES = 256 * 1024


@dataclass(frozen=True)
class SessionRecord:
    """`audio_bytes` is how much audio needs not be sent again; `turns` the ids given away.

    `seqs` has the last sequence number of each line, `owner` the subject whose session it is.
    """

    config: SessionConfig
    history: tuple[Exchange, ...]
    turns: int
    seqs: dict[str, int]
    audio_bytes: int
    message_count: int
    error_count: int
    owner: str | None = None

    def as_json(self) -> str:
        """The record as a text; only what somebody has set is kept of the config.

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
    pairs: list[list[Any]] = []
    room = MAX_HISTORY_BYTES
    for exchange in reversed(history):
        pair: list[Any] = [_asked(exchange.user), _answered(exchange.assistant)]
        if exchange.rounds:
            pair.append([_round_as_json(made) for made in exchange.rounds])
        room -= len(json.dumps(pair, ensure_ascii=False).encode(errors="surrogatepass"))
        if room < 0:
            break
        pairs.append(pair)
    return pairs[::-1]


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
            _owner(fields.get("owner")),
        )
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError, BadInput) as error:
        raise ValueError("not the record of a session") from error


def _owner(value: object) -> str | None:
    if not isinstance(value, str | None):
        # Were it taken for nobody's, everybody could open the session.
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
