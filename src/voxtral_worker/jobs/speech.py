"""Speaks the answers of a job."""

import base64
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from voxtral_worker.errors import BadInput, SpeechFailed
from voxtral_worker.jobs.outlet import Piece
from voxtral_worker.jobs.schema import SpokenAnswer
from voxtral_worker.speech.files import SpeechFile
from voxtral_worker.speech.speech import IS_OFF, Speech

# Ten minutes: 5 MB of mp3 in base64. Longer speech is cut, and `is_whole` is then false.
MAX_MS = 600_000


@dataclass(frozen=True)
class AnswerSpeaker:
    """Speaks the answers of one job, if the job asks for it with a `wish`."""

    speech: Speech | None
    wish: SpokenAnswer | None
    language: str | None = None

    def __post_init__(self) -> None:
        """Raises BadInput if the worker has no such voice, or none at all."""
        if self.wish is None:
            return
        if self.speech is None:
            raise BadInput(f"speech is true, but {IS_OFF}")
        self.speech.voice_named(self.wish.voice)

    async def with_speech(self, piece: Piece) -> Piece:
        """Add the speech to a final piece; if the voice fails, the error takes its place."""
        if self.speech is None or self.wish is None:
            return piece
        try:
            return {**piece, "speech": await self._file(self.speech, self.wish, piece["text"])}
        except SpeechFailed as error:
            return {**piece, "speech": {"error": f"{error.message} ({error.code})"}}

    async def _file(self, speech: Speech, wish: SpokenAnswer, text: str) -> dict[str, Any]:
        file, is_whole = SpeechFile(wish.format, is_streamed=False), True
        async with aclosing(speech.read_aloud(text, wish.voice, 1.0, self.language)) as said:
            async for samples in said:
                if file.duration_ms >= MAX_MS:
                    is_whole = False
                    break
                await file.write(samples)
        data = await file.end()
        return {
            "format": wish.format,
            "audio_base64": base64.b64encode(data).decode(),
            "duration_ms": file.duration_ms,
            "is_whole": is_whole,
        }
