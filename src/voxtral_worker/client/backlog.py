"""Counts the turns that wait for an answer, to decide how fast audio may be sent."""

from voxtral_worker.client.events import Event, Failure, Response, Status

# 20 times 32,000 bytes a second stays below the worker's default limit of 1,000,000.
FAST = 20.0
# The worker refuses a turn when 64 wait. Audio that is on its way adds more turns, so slow down
# well before.
MOST_UNANSWERED = 8


class Backlog:
    """Keeps fast audio from making turns faster than the worker answers them."""

    def __init__(self) -> None:
        self._unanswered: set[str] = set()

    def take(self, event: Event) -> None:
        """Count the turn that an event begins or ends."""
        turn_id = event.turn_id
        if turn_id is None:
            return
        match event:
            case Status(status="speech_ended"):
                self._unanswered.add(turn_id)
            case Response() | Failure() | Status(status="no_speech"):
                self._unanswered.discard(turn_id)

    def speed(self) -> float:
        """The speed at which to send the next audio; 1 is the speed of speech.

        It is never below 1, because a gap in the stream can end a turn within a word.
        """
        return FAST if len(self._unanswered) < MOST_UNANSWERED else 1.0
