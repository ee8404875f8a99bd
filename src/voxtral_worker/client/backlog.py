"""Which turns of a session are over and not answered, and so how fast audio may be sent."""

from voxtral_worker.client.events import Event, Failure, Response, Status

# As fast as the default limit of 1,000,000 bytes a second lets through, with room to spare.
FAST = 20.0
# The worker refuses a turn when 64 wait. What is under way makes some more.
MOST_UNANSWERED = 8


class Backlog:
    """Audio that is sent faster than it was spoken makes turns faster than they are answered."""

    def __init__(self) -> None:
        self._unanswered: set[str] = set()

    def take(self, event: Event) -> None:
        """Count what an event begins or ends."""
        turn_id = event.turn_id
        if turn_id is None:
            return
        match event:
            case Status(status="speech_ended"):
                self._unanswered.add(turn_id)
            case Response() | Failure() | Status(status="no_speech"):
                self._unanswered.discard(turn_id)

    def speed(self) -> float:
        """How many times as fast as it was spoken the next audio may be sent.

        Never slower: a gap in the stream would end a turn within a word.
        """
        return FAST if len(self._unanswered) < MOST_UNANSWERED else 1.0
