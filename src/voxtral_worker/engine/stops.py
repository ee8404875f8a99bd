"""Ends a response where one of its stop texts begins."""

from collections.abc import Sequence

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256


class StopFilter:
    """Holds text back while it may be the beginning of a stop text.

    The text that is let through does not depend on how it was cut into pieces: the stop text that
    is whole first ends it. Of two that are whole at the same character, the longer one does.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        # Text that is not let through yet, with the tokens that end with it.
        self._held: list[tuple[str, tuple[int, ...]]] = []
        self.has_stopped = False

    def push(self, text: str, token_ids: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        """Take text; returns the text that may go out, and the tokens that are out, or ("", ())."""
        if self.has_stopped:
            return "", ()
        if not self._stops:
            return text, token_ids
        self._held.append((text, token_ids))
        whole = "".join(held for held, _ in self._held)
        begins = self._found(whole)
        if begins is None:
            return self._release(len(whole) - self._suspicious(whole))
        self.has_stopped = True
        return self._release(begins)

    def finish(self) -> tuple[str, tuple[int, ...]]:
        """The text that is still held back, as no stop text can become whole any more."""
        return ("", ()) if self.has_stopped else self._release(sum(len(t) for t, _ in self._held))

    def _found(self, whole: str) -> int | None:
        found = [
            (whole.find(stop) + len(stop), -len(stop)) for stop in self._stops if stop in whole
        ]
        if not found:
            return None
        end, less = min(found)
        return end + less

    def _suspicious(self, whole: str) -> int:
        """How many characters at the end may be the beginning of a stop text."""
        longest = min(len(whole), max(len(stop) for stop in self._stops) - 1)
        for length in range(longest, 0, -1):
            end = whole[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0

    def _release(self, characters: int) -> tuple[str, tuple[int, ...]]:
        texts: list[str] = []
        token_ids: list[int] = []
        while self._held and characters >= len(self._held[0][0]):
            text, ids = self._held.pop(0)
            characters -= len(text)
            texts.append(text)
            token_ids += ids
        if self._held and characters:
            text, ids = self._held[0]
            texts.append(text[:characters])
            self._held[0] = text[characters:], ids
        return "".join(texts), tuple(token_ids)
