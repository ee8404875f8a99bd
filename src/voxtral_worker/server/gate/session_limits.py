"""The rate limits of one session, for all of its connections together.

They are counted in memory: a session lives on one worker at a time, and a frame of audio must not
wait for a network.
"""

import time

from voxtral_worker.errors import RateLimited
from voxtral_worker.sessions.limits import RollingLimit, Verdict
from voxtral_worker.settings import Settings

# A client that is refused more often than this ignores its errors, and is disconnected.
REFUSALS = 200
REFUSALS_PERIOD_S = 10.0
# Reading any message costs time, so their number is limited too.
MESSAGES = 600
MESSAGES_PERIOD_S = 10.0
TEXT_BYTES_PER_SECOND = 1 << 18


class SessionLimits:
    """Counts what the clients of a session send, and their errors. Owned by the server's loop."""

    def __init__(self, settings: Settings) -> None:
        self._is_on = settings.rate_limit_enabled
        self._audio = RollingLimit(settings.rate_limit_audio_bytes_per_second, 1.0)
        self._text = RollingLimit(settings.rate_limit_text_per_minute, 60.0)
        self._messages = RollingLimit(MESSAGES, MESSAGES_PERIOD_S)
        self._text_bytes = RollingLimit(TEXT_BYTES_PER_SECOND, 1.0)
        self._refusals = RollingLimit(REFUSALS, REFUSALS_PERIOD_S)

    def check_audio(self, size: int) -> None:
        """Count a frame of audio by its bytes, an empty one as a message. Raises RateLimited."""
        if not size:
            self.check_message_count()
            return
        self._check(self._audio.take(time.monotonic(), size), "audio bytes per second")

    def check_text(self) -> None:
        """Count a text. Raises RateLimited."""
        self._check(self._text.take(time.monotonic()), "text messages per minute")

    def check_message(self, size: int) -> None:
        """Count a message of `size` bytes that is not audio. Raises RateLimited."""
        self.check_message_count()
        verdict = self._text_bytes.take(time.monotonic(), size)
        self._check(verdict, "bytes of messages per second")

    def check_message_count(self) -> None:
        """Count a message whose bytes count as audio. Raises RateLimited."""
        verdict = self._messages.take(time.monotonic())
        self._check(verdict, f"messages in {MESSAGES_PERIOD_S:g} s")

    def is_ignored(self) -> bool:
        """Count a refused message. True: there were too many, disconnect the client."""
        return not self._refusals.take(time.monotonic()).allowed and self._is_on

    def _check(self, verdict: Verdict, what: str) -> None:
        if self._is_on and not verdict.allowed:
            raise RateLimited(
                f"over the limit of {verdict.limit} {what}", retry_after_s=verdict.retry_after_s
            )
