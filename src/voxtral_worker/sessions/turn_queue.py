"""The turns that wait for an answer, and the one being answered."""

from collections import deque
from collections.abc import Iterator

from voxtral_worker.errors import RateLimited
from voxtral_worker.sessions.turn import Turn

# Turns that may wait behind the one being answered; a client that sends more gets RateLimited.
MAX_WAITING = 64


class TurnQueue:
    """Turns in the order in which they ended. At most one of them is being answered."""

    def __init__(self) -> None:
        # The turn being answered; None: none is.
        self.current: Turn | None = None
        # Audio up to here belongs to turns that are over and answered.
        self.settled_bytes = 0
        # How many ids were given. Spoken turns, and those of texts, are numbered together from 1.
        self.ids_given = 0
        # The turns behind the current one, oldest first.
        self._waiting: deque[Turn] = deque()

    def __iter__(self) -> Iterator[Turn]:
        """The turn being answered, and then those that wait."""
        if self.current is not None:
            yield self.current
        yield from self._waiting

    def __len__(self) -> int:
        return len(self._waiting) + (self.current is not None)

    @property
    def waiting(self) -> tuple[Turn, ...]:
        """The turns whose answer has not begun."""
        return tuple(self._waiting)

    @property
    def bytes(self) -> int:
        """Size of the turns, with the room that is set aside for their answers."""
        return sum(turn.bytes for turn in self)

    def new_id(self) -> str:
        """The id of the next turn."""
        self.ids_given += 1
        return str(self.ids_given)

    def require_room(self) -> None:
        """Raises RateLimited when too many turns wait."""
        if len(self._waiting) >= MAX_WAITING:
            raise RateLimited(f"{MAX_WAITING} turns wait already", retry_after_s=1.0)

    def find(self, turn_id: str) -> Turn | None:
        """The turn of an id, if it waits or is being answered."""
        return next((turn for turn in self if turn.turn_id == turn_id), None)

    def add(self, turn: Turn) -> None:
        """Let a turn wait behind the others."""
        self._waiting.append(turn)

    def next(self) -> Turn | None:
        """Make the oldest turn the current one. None: none waits, or one is being answered."""
        if self.current is not None or not self._waiting:
            return None
        self.current = self._waiting.popleft()
        return self.current

    def remove(self, turn: Turn) -> None:
        """Forget a turn that is over. Its audio, and all before it, is settled."""
        if turn is self.current:
            self.current = None
        else:
            self._waiting.remove(turn)
        self.settled_bytes = max(self.settled_bytes, turn.audio_bytes)

    def unsettle(self, start_bytes: int) -> None:
        """Note that a turn continues whose audio began after `start_bytes` of the stream."""
        self.settled_bytes = min(self.settled_bytes, start_bytes)

    def clear(self) -> None:
        """Forget all turns."""
        self.current = None
        self._waiting.clear()
