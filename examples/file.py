"""Sends a recording to a worker as fast as it was spoken, and prints the answers."""

import argparse
import asyncio

from voxtral_worker.client import Delta, Response, VoxtralClient
from voxtral_worker.client.sound import paced, read_sound


async def send(path: str, url: str, key: str | None) -> None:
    """Print each answer word by word. Raises VoxtralError if file or worker cannot be used."""
    async with VoxtralClient(url, token=key, temperature=0) as voxtral:
        async for event in voxtral.stream(paced(read_sound(path))):
            if isinstance(event, Delta):
                print(event.text, end="", flush=True)
            if isinstance(event, Response):
                print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="wav, flac, mp3 or ogg of any rate")
    parser.add_argument("--url", default="http://localhost:8000", help="default: %(default)s")
    parser.add_argument("--key", help="an API key or JWT, if the worker asks for one")
    arguments = parser.parse_args()
    asyncio.run(send(arguments.file, arguments.url, arguments.key))
