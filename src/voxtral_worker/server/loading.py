"""How far the cold start is, as `GET /health` shows it until the worker is ready."""

from typing import Any


class ColdStart:
    """The steps that are over, each with its seconds, and the step under way."""

    def __init__(self) -> None:
        self._done: list[tuple[str, float]] = []
        # Name and start of the step under way; None between two steps.
        self._step: tuple[str, float] | None = None
        # Bytes that are here and bytes in all, while the weights are downloaded.
        self._download: tuple[int, int] | None = None

    def begin(self, step: str, now_s: float) -> None:
        """A step starts."""
        self._step = (step, now_s)

    def end(self, step: str, took_s: float) -> None:
        """A step is over."""
        self._done.append((step, took_s))
        self._step = self._download = None

    def note_download(self, have: int, total: int) -> None:
        """The weights come over the network; `total` is 0 where it is not known."""
        self._download = (have, total)

    def state(self, now_s: float) -> dict[str, Any]:
        """What the documented field `loading` has."""
        step, since_s = self._step or (None, now_s)
        download = None
        if self._download is not None:
            have, total = self._download
            download = {"bytes": have, "total_bytes": total}
        return {
            "step": step,
            "since_s": round(now_s - since_s, 2),
            "download": download,
            "done": [{"step": name, "took_s": round(took_s, 2)} for name, took_s in self._done],
        }
