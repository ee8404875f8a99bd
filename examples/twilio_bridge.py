"""Connects telephone calls with a worker: Twilio Media Streams in, answers as text out.

    caller ── Twilio ──8 kHz mu-law in JSON──▶ bridge ──8 kHz mu-law──▶ worker
                                                 ◀──────── text ────────

The worker takes mu-law as it comes, so the bridge converts nothing. Let TwiML send a call here:

    <Response><Start><Stream url="wss://your.host/" /></Start><Pause length="600"/></Response>

Answers are texts: `tell` is where you would log them, or speak them by a text-to-speech service.
Anyone who knows the bridge's address can use your worker: check Twilio's signature in front of it.
"""

import argparse
import asyncio
import base64
import binascii
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from voxtral_worker.client import Response, VoxtralClient, VoxtralError

log = logging.getLogger("twilio_bridge")

FORMAT = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
# A message carries 20 ms of sound in some 400 bytes.
MOST_MESSAGE_BYTES = 65_536
START_WAIT_S = 10

# Is given the call's id and an answer.
Tell = Callable[[str, str], None]


class BadCall(Exception):
    """The call cannot be served; the message says why."""


async def read(socket: ServerConnection) -> dict[str, Any]:
    """The next message of Twilio's. Raises BadCall."""
    try:
        message = json.loads(await socket.recv())
    except ValueError as error:
        raise BadCall("a message is not JSON") from error
    if not isinstance(message, dict) or not isinstance(message.get("event"), str):
        raise BadCall("a message has no event")
    return message


async def started(socket: ServerConnection) -> str:
    """The id of the call that starts. Raises BadCall."""
    while (message := await read(socket))["event"] != "start":
        if message["event"] != "connected":
            raise BadCall(f"{message['event']} came before start")
    match message.get("start"):
        case {"callSid": str(call), "mediaFormat": dict(found)}:
            if found != FORMAT:
                raise BadCall(f"mediaFormat is {found}, but must be {FORMAT}")
            return call
    raise BadCall("start has no callSid or no mediaFormat")


async def sound(socket: ServerConnection) -> AsyncIterator[bytes]:
    """What the caller says, as 8 kHz mu-law, until the call ends. Raises BadCall.

    Nothing waits here: while the worker is slow, Twilio's messages wait in the connection.
    """
    while True:
        try:
            message = await read(socket)
        except ConnectionClosed:
            return
        match message:
            case {"event": "media", "media": {"track": "inbound", "payload": str(payload)}}:
                try:
                    yield base64.b64decode(payload, validate=True)
                except binascii.Error as error:
                    raise BadCall("a payload is not base64") from error
            case {"event": "media", "media": {"track": "outbound"}}:
                # What the caller hears, where TwiML asks for both tracks.
                pass
            case {"event": "media"}:
                raise BadCall("media has no track or no payload")
            case {"event": "stop"}:
                return


async def bridge(socket: ServerConnection, worker: str, key: str | None, tell: Tell) -> None:
    """One call, from its start to its last answer."""
    try:
        async with asyncio.timeout(START_WAIT_S):
            call = await started(socket)
        log.info("call %s begins", call)
        voxtral = VoxtralClient(worker, token=key, encoding="mulaw", sample_rate=8000)
        async with voxtral:
            async for event in voxtral.stream(sound(socket)):
                if isinstance(event, Response) and event.text:
                    tell(call, event.text)
        log.info("call %s is over", call)
    except BadCall as error:
        log.warning("refused: %s", error)
        # A close reason has room for 123 bytes.
        await socket.close(1003, str(error)[:100])
    except TimeoutError:
        log.warning("refused: no start within %d s", START_WAIT_S)
        await socket.close(1002, "no start")
    except VoxtralError as error:
        log.error("the worker cannot be used: %s", error)
        await socket.close(1011, "the worker cannot be used")
    except ConnectionClosed:
        log.info("the caller left before the call began")


async def listen(host: str, port: int, worker: str, key: str | None, tell: Tell) -> Server:
    """A server that is listening; each connection is a call."""

    async def handle(socket: ServerConnection) -> None:
        await bridge(socket, worker, key, tell)

    return await serve(handle, host, port, max_size=MOST_MESSAGE_BYTES)


async def main(arguments: argparse.Namespace) -> None:
    """Serve until the process is stopped."""

    def tell(call: str, text: str) -> None:
        print(f"{call}: {text}", flush=True)

    server = await listen(arguments.host, arguments.port, arguments.url, arguments.key, tell)
    await server.wait_closed()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", default="http://localhost:8000", help="worker (%(default)s)")
    parser.add_argument("--key", help="an API key or JWT, if the worker asks for one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (%(default)s)")
    logging.basicConfig(level=logging.INFO)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(parser.parse_args()))
