"""Streams the bundled clips through a running worker as a microphone would.

    make demo                                  a worker at http://localhost:8000
    make demo URL=http://localhost:9000

Prints, turn by turn, what was said, what came back, and the latency.
"""

import argparse
import asyncio
import sys
from contextlib import aclosing

from tests.support.sounds import clips
from voxtral_worker.client.client import VoxtralClient
from voxtral_worker.client.errors import VoxtralError
from voxtral_worker.client.events import Failure, Response
from voxtral_worker.client.retry import Retry
from voxtral_worker.client.sound import BYTES_PER_SECOND, paced

PAUSE = bytes(BYTES_PER_SECOND * 8 // 10)
ANSWER_TIMEOUT_S = 60.0


async def answer(client: VoxtralClient) -> Response:
    """The next response. Raises RuntimeError with the server's words for an error."""
    async with aclosing(client.events()) as events:
        async for event in events:
            if isinstance(event, Failure):
                raise RuntimeError(event.error)
            if isinstance(event, Response):
                return event
    raise RuntimeError("the connection was closed")


async def main(url: str) -> None:
    """Talk to a worker, one clip after the other."""
    async with VoxtralClient(url, retry=Retry(most=0)) as client:
        print(f"{'said':32} {'answered':44} {'speech':>7} {'endpoint':>9} {'first word':>11}")
        for words, samples in clips().items():
            waiting = asyncio.create_task(answer(client))
            async for chunk in paced(samples + PAUSE):
                await client.send_audio(chunk)
            got = await asyncio.wait_for(waiting, ANSWER_TIMEOUT_S)
            latency = got.metrics
            print(
                f"{words:32} {got.text:44} {latency['speech_ms']:5.0f}ms "
                f"{latency['endpoint_ms']:7.0f}ms {latency['first_token_ms']:9.0f}ms",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Talk to a running worker with bundled clips.")
    parser.add_argument("url", nargs="?", default="http://localhost:8000")
    try:
        asyncio.run(main(parser.parse_args().url))
    except VoxtralError as error:
        sys.exit(f"{error}; start a worker with: make run")
    except RuntimeError as error:
        sys.exit(f"the worker said: {error}")
