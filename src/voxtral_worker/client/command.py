"""The command `voxtral`: talks with a worker, measures it, or asks how it is."""

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Any, NoReturn

from tqdm import tqdm

from voxtral_worker.client.answers import Answers
from voxtral_worker.client.client import VoxtralClient
from voxtral_worker.client.errors import VoxtralError
from voxtral_worker.client.events import Failure
from voxtral_worker.client.load import Load
from voxtral_worker.client.microphone import listen, open_library
from voxtral_worker.client.rest import Rest, checked_url
from voxtral_worker.client.retry import Retry
from voxtral_worker.client.sound import BYTES_PER_SECOND, decode, paced, read_sound

# As fast as the default limit of 1,000,000 bytes a second lets through, with room to spare.
FAST = 20.0
INTERRUPTED = 130
MOST_PAUSE_S = 60


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Run one command. Exits 0 when it went well, 1 with one line when not, 2 for a wrong use."""
    logging.basicConfig(format="voxtral: %(message)s", level=logging.WARNING)
    arguments = make_parser().parse_args(words)
    try:
        sys.exit(asyncio.run(arguments.run(arguments)))
    except VoxtralError as error:
        sys.exit(f"voxtral: {error}")
    except KeyboardInterrupt:
        # For `talk` it is the way out.
        sys.exit(0 if arguments.run is _talk else INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the answers has had enough; what is buffered has nowhere to go.
        sys.stdout = None
        sys.exit(1)


def make_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    top = argparse.ArgumentParser(prog="voxtral", description="Talk with a Voxtral worker.")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--token", help="an API key or a JWT, where the worker asks for one")
    reached = argparse.ArgumentParser(add_help=False, parents=[shared])
    reached.add_argument("--url", type=_url, default="http://localhost:8000", help="of the worker")
    talking = argparse.ArgumentParser(add_help=False, parents=[reached])
    talking.add_argument("--mode", choices=("chat", "transcribe"), default="chat")
    talking.add_argument("--language", help="what is spoken, like en; unset: found out")
    talking.add_argument("--retries", type=_whole, default=5, help="after a refusal or a lost line")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    send = commands.add_parser(
        "send", parents=[talking], help="send a sound file, print the answer"
    )
    send.add_argument("file", help="wav, flac, mp3 or ogg of any rate and number of channels")
    send.add_argument("--fast", action="store_true", help="faster than it was spoken")
    send.set_defaults(run=_send)
    talk = commands.add_parser("talk", parents=[talking], help="talk by microphone; Ctrl-C ends")
    talk.set_defaults(run=_talk)
    bench = commands.add_parser("bench", parents=[shared], help="measure it under many users")
    bench.add_argument("url", type=_url, help="of the worker")
    bench.add_argument("--sessions", type=_positive, default=4, help="users at once")
    bench.add_argument("--seconds", type=_positive, default=30, help="how long they speak")
    bench.add_argument("--pause", type=_seconds, default=1.5, help="seconds between two sentences")
    bench.add_argument("--clip", action="append", help="sound file to speak; unset: the worker's")
    bench.set_defaults(run=_bench)
    health = commands.add_parser("health", parents=[reached], help="print the worker's health")
    health.set_defaults(run=_health)
    return top


def _url(text: str) -> str:
    try:
        return checked_url(text)
    except VoxtralError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


def _positive(text: str) -> int:
    if not _whole(text):
        raise argparse.ArgumentTypeError("it must be at least 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MOST_PAUSE_S:
        raise argparse.ArgumentTypeError(f"it must be seconds from 0 to {MOST_PAUSE_S}")
    return seconds


async def _send(arguments: argparse.Namespace) -> int:
    samples = read_sound(arguments.file)
    seconds = len(samples) / BYTES_PER_SECOND
    form = "{desc} {percentage:3.0f}% {bar} {n:.1f}/{total:.1f} s"
    # On standard error, and only where somebody sees it.
    with tqdm(total=seconds, desc="sending", bar_format=form, leave=False, disable=None) as bar:
        chunks = _counted(paced(samples, FAST if arguments.fast else 1.0), bar)
        await _converse(arguments, chunks, Answers(sys.stdout, bar), ends_by_failure=True)
    return 0


async def _counted(chunks: AsyncIterable[bytes], bar: "tqdm[Any]") -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield chunk
        bar.update(len(chunk) / BYTES_PER_SECOND)
    bar.refresh()
    bar.close()


async def _talk(arguments: argparse.Namespace) -> int:
    chunks = listen(open_library())
    await _converse(arguments, chunks, Answers(sys.stdout), ends_by_failure=False)
    return 0


async def _converse(
    arguments: argparse.Namespace,
    chunks: AsyncIterable[bytes],
    answers: Answers,
    *,
    ends_by_failure: bool,
) -> None:
    config = {"mode": arguments.mode, "language": arguments.language}
    retry = Retry(most=arguments.retries)
    # A worker that is not there, or wants other credentials, is told at once.
    await Rest(arguments.url, arguments.token).health()
    client = VoxtralClient(arguments.url, token=arguments.token, retry=retry, **config)
    async with client as voxtral:
        async for event in voxtral.stream(chunks):
            answers.take(event)
            if isinstance(event, Failure) and ends_by_failure:
                raise VoxtralError(event.error)
            if isinstance(event, Failure):
                print(f"voxtral: {event.error}", file=sys.stderr)


async def _bench(arguments: argparse.Namespace) -> int:
    clips = [read_sound(path) for path in arguments.clip or []]
    if not clips:
        clips = await _clips_of(Rest(arguments.url, arguments.token))
    load = Load(arguments.sessions, arguments.seconds, arguments.pause, clips)
    try:
        await load.run(arguments.url, arguments.token)
    finally:
        # Also what was measured until Ctrl-C.
        print("\n".join(load.table()), flush=True)
    return 1 if load.errors or not load.turns else 0


async def _clips_of(rest: Rest) -> list[bytes]:
    names = await rest.call("GET", "/console/clips/index.json")
    return [decode(await rest.fetch("GET", f"/console/clips/{name}")) for name in names]


async def _health(arguments: argparse.Namespace) -> int:
    health = await Rest(arguments.url, arguments.token).health()
    print(json.dumps(health, indent=2))
    return 0 if health["status"] == "healthy" else 1


if __name__ == "__main__":
    main()
