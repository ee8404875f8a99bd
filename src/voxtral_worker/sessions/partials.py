"""Which words of a growing transcript will not change any more.

Local agreement of two successive hypotheses, after Macháček, Dabre and Bojar 2023,
"Turning Whisper into Real-Time Transcription System" (arXiv:2307.14743): the words that
two hypotheses in a row share are stable, and stay.
"""


class StablePrefix:
    """One turn's hypotheses; what was once stable never changes."""

    def __init__(self) -> None:
        self._stable: list[str] = []
        self._last: list[str] = []

    def update(self, hypothesis: str) -> tuple[str, int]:
        """The text to show, and how many of its first characters are stable."""
        words = hypothesis.split()
        agreed = 0
        for new, old in zip(words, self._last, strict=False):
            if new != old:
                break
            agreed += 1
        if agreed > len(self._stable) and words[: len(self._stable)] == self._stable:
            self._stable = words[:agreed]
        self._last = words
        shown = self._stable + words[len(self._stable) :]
        return " ".join(shown), len(" ".join(self._stable))
