"""The limits of one session's two connections together.

They are counted in memory: a session lives in one worker at a time, and a frame of audio
must not wait for a network.
"""

import time

from voxtral_worker.errors import RateLimited
from voxtral_worker.sessions.limits import RollingLimit, Verdict
from voxtral_worker.settings import Settings

# A client refused more often than this has taken no notice of what it was told.
REFUSALS = 200
REFUSALS_PERIOD_S = 10.0


class SessionLimits:
    """Counts what a client sends, and how often it was refused. Owned by the server's loop."""

    def __init__(self, settings: Settings) -> None:
        self._is_on = settings.rate_limit_enabled
        self._audio = RollingLimit(settings.rate_limit_audio_bytes_per_second, 1.0)
        self._text = RollingLimit(settings.rate_limit_text_per_minute, 60.0)
        self._refusals = RollingLimit(REFUSALS, REFUSALS_PERIOD_S)

    def check_audio(self, size: int) -> None:
        """Count audio bytes. Raises RateLimited."""
        self._check(self._audio.take(time.monotonic(), size), "audio bytes per second")

    def check_text(self) -> None:
        """Count a text. Raises RateLimited."""
        self._check(self._text.take(time.monotonic()), "text messages per minute")

    def is_ignored(self) -> bool:
        """Count one refusal; whether there were too many of them lately."""
        return not self._refusals.take(time.monotonic()).allowed

    def _check(self, verdict: Verdict, what: str) -> None:
        if self._is_on and not verdict.allowed:
            raise RateLimited(
                f"over the limit of {verdict.limit} {what}", retry_after_s=verdict.retry_after_s
            )
