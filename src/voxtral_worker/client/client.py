"""A live session with a worker, for programs that use asyncio."""

import secrets
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from typing import Any, Self, Unpack

from voxtral_worker.client.calls import Calls
from voxtral_worker.client.errors import VoxtralError
from voxtral_worker.client.events import Event, Stats, ToolCall, read_event
from voxtral_worker.client.feed import Feed
from voxtral_worker.client.line import Line, control
from voxtral_worker.client.options import Options
from voxtral_worker.client.rest import Rest
from voxtral_worker.client.retry import Retry

MOST_ID_CHARACTERS = 256


class VoxtralClient:
    """One session, from `async with` to the end of the block.

    After a lost connection the client resumes the session: nothing is lost and nothing is sent
    twice. Read `events` all the time, in one place at a time: they answer what you send, and
    reading them reconnects. Sending raises VoxtralError once the session is over.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        retry: Retry | None = None,
        **config: Unpack[Options],
    ) -> None:
        """Prepare a session; `async with` opens it.

        `url`: address of the worker, such as http://localhost:8000. `token`: an API key, a JWT or
        a session's token. `config`: options of the session. If there are Python functions among
        its `tools`, the client runs them when the model calls them, as long as you read events.
        Raises VoxtralError if one of the functions cannot be used as a tool.
        """
        self._rest = Rest(url, token)
        self._calls = Calls()
        self._line = Line(self._rest, retry or Retry(), self._calls.described(dict(config)))

    async def __aenter__(self) -> Self:
        await self._line.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        # Calls first: they use the line for their results.
        await self._calls.stop()
        await self._line.close()

    @property
    def session_id(self) -> str | None:
        """The session's id at the worker; None before it is open."""
        return self._line.session_id

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now. A lost one is opened again when you read events."""
        return self._line.is_open.is_set()

    async def send_audio(self, chunk: bytes) -> None:
        """Send audio, at most 1 MiB at a time: 16-bit mono PCM at 16 kHz, or as the options say."""
        await self._line.send_audio(chunk)

    async def send_text(self, text: str, request_id: str | None = None) -> str:
        """Ask for an answer to a text; returns the `request_id` of the events that answer it.

        A `request_id` of your own has at most 256 characters and must be new in the session.
        """
        request_id = request_id or secrets.token_hex(8)
        if len(request_id) > MOST_ID_CHARACTERS or not request_id.isprintable():
            raise VoxtralError(
                f"request_id is {request_id[:60]!a}, but must be printable, of at most "
                f"{MOST_ID_CHARACTERS} characters"
            )
        message = {"type": "text_input", "text": text, "request_id": request_id}
        await self._line.send_message(message)
        return request_id

    async def end_turn(self) -> None:
        """End the user's turn now, without waiting for silence."""
        await self._line.send_message(control("end_turn"))

    async def cancel(self) -> None:
        """Stop the response being made; a Status `cancelled` comes back."""
        await self._line.send_message(control("cancel"))

    async def played(self, turn_id: str, played_ms: float) -> None:
        """Report how much of a turn's speech you have played.

        If the turn was interrupted, the history then keeps only the words that were played.
        """
        await self._line.send_message(control("played", turn_id=turn_id, played_ms=played_ms))

    async def clear_history(self) -> None:
        """Forget the conversation; a Status `history_cleared` comes back."""
        await self._line.send_message(control("clear_history"))

    async def update(self, **options: Unpack[Options]) -> None:
        """Change options, all or none; a Status `config_updated` comes back, or a Failure."""
        config = self._calls.described(dict(options))
        await self._line.send_message({"type": "config_update", "config": config})

    async def send_tool_result(
        self, call: ToolCall, content: object, *, is_error: bool = False
    ) -> None:
        """Send the result of a call: a text or any value that JSON can hold.

        Results of Python functions among the tools are sent by the client itself.
        """
        await self._line.send_message(
            {
                "type": "tool_result",
                "call_id": call.call_id,
                "content": content,
                "is_error": is_error,
            },
            turn_id=call.turn_id,
        )

    async def ping(self) -> None:
        """Ask for a Pong. If the connection is lost before it comes, it never comes."""
        await self._line.ask("ping")

    async def get_stats(self) -> None:
        """Ask for Stats. If the connection is lost before they come, they never come."""
        await self._line.ask("get_stats")

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield the worker's events, across lost connections, until the client is closed.

        You may stop reading and call it again later. Raises VoxtralError if the worker ends the
        session, refuses audio, or cannot be reached again.
        """
        async with aclosing(self._line.messages()) as messages:
            async for message in messages:
                event = read_event(message)
                if isinstance(event, ToolCall):
                    self._calls.start(event, self.send_tool_result)
                yield event

    async def stream(self, chunks: AsyncIterable[bytes]) -> AsyncGenerator[Event, None]:
        """Send audio (16-bit mono PCM, 16 kHz); yields events until all of it is answered.

        Raises VoxtralError if the worker refuses the audio or cannot be reached again, and what
        `chunks` raises.
        """
        feed = Feed(self._line, chunks)
        try:
            async with aclosing(self.events()) as events:
                async for event in events:
                    if not isinstance(event, Stats):
                        yield event
                    elif feed.is_answered(event):
                        return
            feed.check()
        except VoxtralError:
            # If the audio source failed too, raise its error: no one else would report it.
            feed.check()
            raise
        finally:
            # Also when the caller leaves the iterator early.
            await feed.stop()

    async def session(self) -> dict[str, Any]:
        """The worker's `GET /session/{id}`: status, current options, statistics."""
        return await self._rest.call("GET", f"/session/{self.session_id}")

    async def speak(
        self, text: str, voice: str | None = None, response_format: str = "wav", speed: float = 1.0
    ) -> bytes:
        """Turn a text into a file of speech: wav, pcm, mp3, opus or flac. Needs no session.

        `voice` is one of `health()["voices"]`; None is the default voice. `speed` 1.0 is normal
        speed. Raises VoxtralError.
        """
        return await self._rest.speak(text, voice, response_format, speed)

    async def health(self) -> dict[str, Any]:
        """The worker's `GET /health`; needs no session."""
        return await self._rest.health()
