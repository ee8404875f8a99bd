"""What the user has said that nobody was to answer yet."""

from typing import TypeAlias

from voxtral_worker.engine.conversation import Audio, UserTurn
from voxtral_worker.sessions.memory import bytes_of_parts

BETWEEN_TEXTS = "\n\n"
# Parts under the key of each lot.
Said: TypeAlias = dict[str, tuple[str | Audio, ...]]


class Pending:
    """Parts in the order in which they were said, each lot under a key of its own.

    They open the user's next turn.
    """

    def __init__(self) -> None:
        self._said: Said = {}
        # What all of it takes.
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._said)

    def add(self, key: str, parts: tuple[str | Audio, ...]) -> None:
        """More of it."""
        self.remove(key)
        self._said[key] = parts
        self.bytes += bytes_of_parts(parts)

    def remove(self, key: str) -> bool:
        """Take a lot back; whether it was there."""
        parts = self._said.pop(key, None)
        self.bytes -= bytes_of_parts(parts or ())
        return parts is not None

    def clear(self) -> None:
        """All of it belongs to a turn now."""
        self._said.clear()
        self.bytes = 0

    def take(self) -> Said:
        """All of it, which belongs to a turn now."""
        said = dict(self._said)
        self.clear()
        return said

    def put_back(self, said: Said) -> None:
        """What belonged to a turn opens the next one again."""
        for key, parts in said.items():
            self.add(key, parts)

    def as_turn(self) -> UserTurn:
        """All of it as one turn."""
        return UserTurn(joined([part for parts in self._said.values() for part in parts]))

    def with_audio(self, audio: Audio) -> UserTurn:
        """All of it, and speech after it."""
        return UserTurn((*self.as_turn().parts, audio))


def joined(parts: list[str | Audio]) -> tuple[str | Audio, ...]:
    """The parts with a blank line between two texts, as mistral-common joins messages."""
    apart: list[str | Audio] = []
    for part in parts:
        if apart and isinstance(part, str) and isinstance(apart[-1], str):
            apart.append(BETWEEN_TEXTS)
        apart.append(part)
    return tuple(apart)
