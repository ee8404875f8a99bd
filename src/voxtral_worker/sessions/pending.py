"""User input that was not sent to the model yet. It becomes the start of the next turn."""

from typing import TypeAlias

from voxtral_worker.engine.conversation import Audio, UserTurn
from voxtral_worker.sessions.memory import bytes_of_parts

BETWEEN_TEXTS = "\n\n"
# The parts of each input, by its key.
Said: TypeAlias = dict[str, tuple[str | Audio, ...]]


class Pending:
    """Inputs in the order in which they came, each under a key of its own."""

    def __init__(self) -> None:
        self._said: Said = {}
        # Size of all inputs.
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._said)

    def add(self, key: str, parts: tuple[str | Audio, ...]) -> None:
        """Add an input at the end; it replaces one that has the same key."""
        self.remove(key)
        self._said[key] = parts
        self.bytes += bytes_of_parts(parts)

    def remove(self, key: str) -> bool:
        """Remove an input. False: there is none with this key."""
        parts = self._said.pop(key, None)
        self.bytes -= bytes_of_parts(parts or ())
        return parts is not None

    def clear(self) -> None:
        """Remove all inputs."""
        self._said.clear()
        self.bytes = 0

    def take(self) -> Said:
        """Remove all inputs and return them: a turn holds them from now on."""
        said = dict(self._said)
        self.clear()
        return said

    def put_back(self, said: Said) -> None:
        """Add inputs again that `take` has returned."""
        for key, parts in said.items():
            self.add(key, parts)

    def as_turn(self) -> UserTurn:
        """All inputs as one turn; they stay pending."""
        return UserTurn(joined([part for parts in self._said.values() for part in parts]))

    def with_audio(self, audio: Audio) -> UserTurn:
        """All inputs and then this audio, as one turn; they stay pending."""
        return UserTurn((*self.as_turn().parts, audio))


def joined(parts: list[str | Audio]) -> tuple[str | Audio, ...]:
    """The parts with a blank line between two texts, as mistral-common joins messages."""
    apart: list[str | Audio] = []
    for part in parts:
        if apart and isinstance(part, str) and isinstance(apart[-1], str):
            apart.append(BETWEEN_TEXTS)
        apart.append(part)
    return tuple(apart)
