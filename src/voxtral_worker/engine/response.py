"""The caller's side of one sequence: what was sent so far, and what the answer may be."""

from voxtral_worker.engine.constraint import Constraint
from voxtral_worker.engine.detokenizer import Detokenizer
from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.request import CallEvent, Delta
from voxtral_worker.engine.stops import StopFilter


class Response:
    """Text and calls of tools as they come; owned by the engine's thread."""

    def __init__(
        self, generation: Generation, detokenizer: Detokenizer, constraint: Constraint
    ) -> None:
        """`constraint`: what the answer may be."""
        # What the caller holds, and how its tokens are chosen.
        self.generation = generation
        self.sampling = generation.request.sampling
        # Masks tokens that the answer must not have.
        self.constraint = constraint
        # Names the input in the response cache; None: the answer is not kept.
        self.key: bytes | None = None
        # Everything that was sent to the caller, in order.
        self.told: list[Delta | CallEvent] = []
        # Tokens become text, and the text ends at a stop text.
        self._detokenizer = detokenizer
        self._stops = StopFilter(self.sampling.stop)

    @property
    def has_stopped(self) -> bool:
        """Whether a stop text has ended the answer."""
        return self._stops.has_stopped and self.constraint.parser is None

    def push(self, token_id: int) -> None:
        """Send the text that is complete with this token."""
        self._say(*self._detokenizer.push(token_id))

    def finish_text(self) -> None:
        """Send the text that was held back; only calls may follow."""
        self._say(*self._detokenizer.finish())
        self._tell_text(*self._stops.finish())

    def _say(self, text: str, token_ids: tuple[int, ...]) -> None:
        if not text:
            return
        parser = self.constraint.parser
        if parser is None:
            self._tell_text(*self._stops.push(text, token_ids))
            return
        for event in parser.push(text):
            self._tell(event)

    def _tell_text(self, text: str, token_ids: tuple[int, ...]) -> None:
        if text:
            self._tell(Delta(text, token_ids))

    def _tell(self, event: Delta | CallEvent) -> None:
        self.told.append(event)
        self.generation.report(event)
