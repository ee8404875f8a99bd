"""Talks with a worker by the default microphone until Ctrl-C, and prints the answers."""

import argparse
import asyncio
import contextlib

from voxtral_worker.client import Delta, Response, VoxtralClient
from voxtral_worker.client.microphone import listen, open_library


async def talk(url: str, key: str | None) -> None:
    """Print each answer word by word. Raises VoxtralError without a microphone or worker."""
    library = open_library()
    async with VoxtralClient(url, token=key) as voxtral:
        async for event in voxtral.stream(listen(library)):
            if isinstance(event, Delta):
                print(event.text, end="", flush=True)
            if isinstance(event, Response):
                print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://localhost:8000", help="default: %(default)s")
    parser.add_argument("--key", help="an API key or JWT, if the worker asks for one")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(talk(arguments.url, arguments.key))
