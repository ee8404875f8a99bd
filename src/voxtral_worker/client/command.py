"""The command `voxtral`: sends a file to a worker, or asks how it is."""

import argparse
import asyncio
import json
import sys
import wave
from collections.abc import AsyncIterator

from voxtral_worker.client.client import VoxtralClient, VoxtralError
from voxtral_worker.client.events import Delta, Failure, Response

RATE = 16_000
CHUNK_MS = 100
# As fast as the default limit of 1,000,000 bytes a second lets through, with room to spare.
FAST = 20.0


def main() -> None:
    """Run one command; exits 1 with one line when it fails."""
    arguments = _parser().parse_args()
    try:
        asyncio.run(arguments.run(arguments))
    except (VoxtralError, OSError, wave.Error, ValueError) as error:
        sys.exit(f"voxtral: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="voxtral", description="Talk with a Voxtral worker.")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--url", default="http://localhost:8000", help="where the worker is")
    shared.add_argument("--token", help="an API key or a JWT, where the worker asks for one")
    commands = parser.add_subparsers(required=True)
    send = commands.add_parser("send", parents=[shared], help="send a wav file, print the answer")
    send.add_argument("file", help="16-bit mono wav, 16 kHz")
    send.add_argument("--fast", action="store_true", help="faster than it was spoken")
    send.set_defaults(run=_send)
    health = commands.add_parser("health", parents=[shared], help="print the worker's health")
    health.set_defaults(run=_health)
    return parser


async def _send(arguments: argparse.Namespace) -> None:
    samples = _read(arguments.file)
    pace = FAST if arguments.fast else 1.0
    async with VoxtralClient(arguments.url, token=arguments.token) as voxtral:
        async for event in voxtral.stream(_paced(samples, pace)):
            match event:
                case Delta(text=text):
                    print(text, end="", flush=True)
                case Response():
                    print()
                case Failure(error=error):
                    raise VoxtralError(error)


async def _health(arguments: argparse.Namespace) -> None:
    health = await VoxtralClient(arguments.url, token=arguments.token).health()
    print(json.dumps(health, indent=2))


def _read(path: str) -> bytes:
    with wave.open(path) as file:
        form = (file.getframerate(), file.getnchannels(), file.getsampwidth())
        if form != (RATE, 1, 2):
            raise ValueError(f"{path} must be 16-bit mono at {RATE} Hz")
        samples: bytes = file.readframes(file.getnframes())
        return samples


async def _paced(samples: bytes, pace: float) -> AsyncIterator[bytes]:
    size = RATE * 2 * CHUNK_MS // 1000
    for start in range(0, len(samples), size):
        yield samples[start : start + size]
        await asyncio.sleep(CHUNK_MS / 1000 / pace)


if __name__ == "__main__":
    main()
