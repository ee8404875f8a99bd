"""The command `voxtral`: serves a model, talks with a worker, measures it or shows its state."""

import argparse
import asyncio
import contextlib
import importlib.util
import json
import logging
import os
import sys
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from voxtral_worker.client.answers import Answers
from voxtral_worker.client.arguments import SPEECH_FORMATS, parse
from voxtral_worker.client.backlog import Backlog
from voxtral_worker.client.chat import Chat
from voxtral_worker.client.client import VoxtralClient
from voxtral_worker.client.errors import VoxtralError
from voxtral_worker.client.events import Event, Failure, Speech, Status
from voxtral_worker.client.load import Load
from voxtral_worker.client.loudspeaker import BYTES_PER_SAMPLE, RATE, Loudspeaker
from voxtral_worker.client.microphone import listen, open_library
from voxtral_worker.client.options import Options
from voxtral_worker.client.rest import Rest
from voxtral_worker.client.retry import Retry
from voxtral_worker.client.sound import BYTES_PER_SECOND, as_spoken, decode, paced, read_sound

INTERRUPTED = 130
# If the loudspeaker takes so much longer than the speech itself, stop waiting for it.
MOST_DELAY_S = 10.0


def main(words: list[str] | None = None) -> NoReturn:
    """Run one command. Exits 0 on success, 1 with one line on failure, 2 for wrong usage."""
    words = sys.argv[1:] if words is None else list(words)
    # These two have parsers of their own, and need packages that a client does not have.
    if words[:1] == ["serve"]:
        from voxtral_worker.__main__ import main as serve

        sys.exit(serve(words[1:], "voxtral serve"))
    if words[:1] == ["tail-check"]:
        if importlib.util.find_spec("torch") is None:
            sys.exit("voxtral: tail-check needs a model: pip install 'voxtral-worker[worker]'")
        from voxtral_worker.tail_check import main as check

        sys.exit(check(words[1:], "voxtral tail-check"))
    logging.basicConfig(format="voxtral: %(message)s", level=logging.WARNING)
    arguments = parse(words, os.environ)
    try:
        sys.exit(_RUNS[arguments.command](arguments))
    except VoxtralError as error:
        sys.exit(f"voxtral: {error}")
    except KeyboardInterrupt:
        # In `talk` and `chat`, Ctrl-C is the normal way to end.
        sys.exit(0 if arguments.command in ("talk", "chat") else INTERRUPTED)
    except BrokenPipeError:
        # The program that read our output has ended. Drop the buffered rest: Python would try to
        # write it at exit, and fail again.
        sys.stdout = None
        sys.exit(1)


def _send(arguments: argparse.Namespace) -> int:
    return asyncio.run(_send_all(arguments, read_sound(arguments.file, is_raw=arguments.raw)))


async def _send_all(arguments: argparse.Namespace, samples: bytes) -> int:
    seconds = len(samples) / BYTES_PER_SECOND
    form = "{desc} {percentage:3.0f}% {bar} {n:.1f}/{total:.1f} s"
    # The bar goes to standard error. `disable=None` hides it if that is not a terminal.
    with tqdm(total=seconds, desc="sending", bar_format=form, leave=False, disable=None) as bar:
        backlog = Backlog()
        speed = backlog.speed if arguments.fast else as_spoken
        events = _conversation(arguments, _counted(paced(samples, speed), bar), barge_in=False)
        answers = Answers(sys.stdout, bar)
        async for event in events:
            answers.take(event)
            backlog.take(event)
            if isinstance(event, Failure):
                raise VoxtralError(event.error)
    return 0


async def _counted(chunks: AsyncIterable[bytes], bar: "tqdm[Any]") -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield chunk
        bar.update(len(chunk) / BYTES_PER_SECOND)
    bar.refresh()
    bar.close()


def _talk(arguments: argparse.Namespace) -> int:
    return asyncio.run(_talk_on(arguments))


async def _talk_on(arguments: argparse.Namespace) -> int:
    answers, library = Answers(sys.stdout), open_library()
    health = await Rest(arguments.url, arguments.token).health()
    voices = [] if arguments.mute or arguments.mode != "chat" else health.get("voices", [])
    with contextlib.ExitStack() as stack:
        chunks, loudspeaker, speech = listen(library), None, Options()
        if arguments.voice or voices:
            loudspeaker = stack.enter_context(Loudspeaker(library))
            speech = Options(voice=arguments.voice or voices[0], output_sample_rate=RATE)
            if not arguments.headset:
                chunks = _unless_playing(chunks, loudspeaker)
        async for event in _conversation(arguments, chunks, barge_in=True, speech=speech):
            answers.take(event)
            match event:
                case Speech(sound=sound) if loudspeaker is not None:
                    loudspeaker.play(sound)
                case Status(status="interrupted") if loudspeaker is not None:
                    loudspeaker.cut()
                case Failure(error=error):
                    print(f"voxtral: {error}", file=sys.stderr)
    return 0


async def _unless_playing(
    chunks: AsyncIterable[bytes], loudspeaker: Loudspeaker
) -> AsyncIterator[bytes]:
    """Replace the microphone's sound by silence while the loudspeaker plays."""
    async for chunk in chunks:
        yield bytes(len(chunk)) if loudspeaker.is_playing else chunk


async def _conversation(
    arguments: argparse.Namespace,
    chunks: AsyncIterable[bytes],
    *,
    barge_in: bool,
    speech: Options | None = None,
) -> AsyncIterator[Event]:
    """Yield the worker's events for audio.

    `barge_in` is off for a recording: its next sentence must not stop the answer to the last one.
    """
    config: Options = {
        "mode": arguments.mode,
        "language": arguments.language,
        "barge_in": barge_in,
        **(speech or Options()),
    }
    retry = Retry(most=arguments.retries)
    # Ask once without retries, so that a wrong address or token is reported at once.
    await Rest(arguments.url, arguments.token).health()
    client = VoxtralClient(arguments.url, token=arguments.token, retry=retry, **config)
    async with client as voxtral:
        async for event in voxtral.stream(chunks):
            yield event


def _speak(arguments: argparse.Namespace) -> int:
    text = sys.stdin.read() if arguments.text == "-" else arguments.text
    rest = Rest(arguments.url, arguments.token)
    if arguments.output is None:
        with Loudspeaker(open_library()) as loudspeaker:
            pcm = asyncio.run(rest.speak(text, arguments.voice, "pcm"))
            loudspeaker.play(pcm)
            loudspeaker.wait(len(pcm) / BYTES_PER_SAMPLE / RATE + MOST_DELAY_S)
        return 0
    ending = arguments.output.rpartition(".")[2].lower()
    format_ = arguments.format or (ending if ending in SPEECH_FORMATS else "wav")
    data = asyncio.run(rest.speak(text, arguments.voice, format_))
    if arguments.output == "-":
        sys.stdout.buffer.write(data)
        return 0
    try:
        Path(arguments.output).write_bytes(data)
    except OSError as error:
        raise VoxtralError(f"{arguments.output} cannot be written: {error.strerror}") from error
    return 0


def _chat(arguments: argparse.Namespace) -> int:
    rest = Rest(arguments.url, arguments.token)
    health = asyncio.run(rest.health())
    chat = Chat(rest, str(health["model"]["id"]))
    exit_code = 0
    for line in _typed():
        try:
            for piece in chat.ask(line):
                print(piece, end="", flush=True)
            print(flush=True)
        except VoxtralError as error:
            # Do not end: you may ask again, or ask something else.
            print(f"voxtral: {error}", file=sys.stderr)
            exit_code = 1
    return exit_code


def _typed() -> Iterator[str]:
    """Lines with words in them, until the end of standard input."""
    is_person = sys.stdin.isatty()
    if is_person:
        # Importing it gives `input` line editing and a history.
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401
    with contextlib.suppress(EOFError):
        while True:
            line = input("> " if is_person else "").strip()
            if line:
                yield line


def _bench(arguments: argparse.Namespace) -> int:
    return asyncio.run(_measure(arguments))


async def _measure(arguments: argparse.Namespace) -> int:
    clips = [read_sound(path) for path in arguments.clip or []]
    if not clips:
        clips = await _clips_of(Rest(arguments.url, arguments.token))
    load = Load(arguments.sessions, arguments.seconds, arguments.pause, clips)
    try:
        await load.run(arguments.url, arguments.token)
    finally:
        # In `finally`, so that Ctrl-C shows what was measured until then.
        print("\n".join(load.table()), flush=True)
    return 1 if load.errors or not load.turns else 0


async def _clips_of(rest: Rest) -> list[bytes]:
    names = await rest.call("GET", "/console/clips/index.json")
    return [decode(await rest.fetch("GET", f"/console/clips/{name}")) for name in names]


def _health(arguments: argparse.Namespace) -> int:
    health = asyncio.run(Rest(arguments.url, arguments.token).health())
    print(json.dumps(health, indent=2) if arguments.json else "\n".join(_in_words(health)))
    return 0 if health["status"] == "healthy" else 1


def _in_words(health: dict[str, Any]) -> Iterator[str]:
    """The health of a worker in a few lines."""
    uptime = timedelta(seconds=round(health["uptime_seconds"]))
    yield f"{health['status']}, version {health['version']}, up for {uptime}"
    # A worker of another version has no such field.
    if loading := health.get("loading"):
        yield f"loading   {loading['step'] or 'the next step'} for {loading['since_s']:.0f} s"
    model, capacity = health["model"], health["capacity"]
    if model["ready"]:
        yield f"model     {model['id']} on {model['device']} in {model['dtype']}"
    yield (
        f"sessions  {health['active_sessions']} of {capacity['max_sessions']}, "
        f"room for {capacity['available']} more"
    )
    yield f"waiting   {health['queue_size']} requests"


_RUNS = {
    "send": _send,
    "talk": _talk,
    "speak": _speak,
    "chat": _chat,
    "bench": _bench,
    "health": _health,
}

if __name__ == "__main__":
    main()
