"""Streams the bundled clips through a running worker as a microphone would.

    make demo                                  a worker at http://localhost:8000
    make demo URL=http://localhost:9000

Prints, turn by turn, what was said, what came back, and the latency.
"""

import argparse
import asyncio
import json
import sys
import wave
from pathlib import Path
from typing import Any

import aiohttp
import websockets

from voxtral_worker.settings import EMBEDDED_MODEL

CLIPS = EMBEDDED_MODEL / "clips"
CHUNK_MS = 100
CHUNK_BYTES = 16 * CHUNK_MS * 2
SILENCE_CHUNKS = 8
ANSWER_TIMEOUT_S = 60.0


def read_clips(folder: Path) -> dict[str, bytes]:
    """16-bit samples at 16 kHz, by the words that are said."""
    clips = {}
    for name, words in json.loads((folder / "index.json").read_text()).items():
        with wave.open(str(folder / name)) as file:
            clips[words] = file.readframes(file.getnframes())
    return clips


async def speak(socket: Any, samples: bytes) -> None:
    """Send a clip at the speed of speech, and the silence after it."""
    silence = bytes(CHUNK_BYTES)
    chunks = [samples[i : i + CHUNK_BYTES] for i in range(0, len(samples), CHUNK_BYTES)]
    for chunk in [*chunks, *[silence] * SILENCE_CHUNKS]:
        await socket.send(chunk)
        await asyncio.sleep(CHUNK_MS / 1000)


async def answer(socket: Any) -> dict[str, Any]:
    """The next response. Raises RuntimeError with the server's words for an error."""
    async for text in socket:
        message: dict[str, Any] = json.loads(text)
        if message["type"] == "error":
            raise RuntimeError(message["error"])
        if message["type"] == "text_response":
            return message
    raise RuntimeError("the connection was closed")


async def main(url: str) -> None:
    """Talk to a worker, one clip after the other."""
    async with aiohttp.ClientSession() as http, http.post(f"{url}/session/create") as response:
        if response.status != 200:
            raise RuntimeError((await response.json())["error"])
        session = await response.json()
    address = url.replace("http", "ws", 1) + session["websocket_url"]
    async with websockets.connect(address) as socket:
        print(f"{'said':32} {'answered':44} {'speech':>7} {'endpoint':>9} {'first word':>11}")
        for words, samples in read_clips(CLIPS).items():
            waiting = asyncio.create_task(answer(socket))
            await speak(socket, samples)
            got = await asyncio.wait_for(waiting, ANSWER_TIMEOUT_S)
            latency = got["metrics"]
            print(
                f"{words:32} {got['text']:44} {latency['speech_ms']:5.0f}ms "
                f"{latency['endpoint_ms']:7.0f}ms {latency['first_token_ms']:9.0f}ms",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Talk to a running worker with bundled clips.")
    parser.add_argument("url", nargs="?", default="http://localhost:8000")
    try:
        asyncio.run(main(parser.parse_args().url.rstrip("/")))
    except (OSError, aiohttp.ClientError) as error:
        sys.exit(f"no worker answers ({error}); start one with: make run")
    except RuntimeError as error:
        sys.exit(f"the worker said: {error}")
