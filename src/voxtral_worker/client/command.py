"""The command `voxtral`: serves a model, talks with a worker, measures it or shows its state."""

import argparse
import asyncio
import contextlib
import importlib.util
import json
import logging
import os
import sys
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from voxtral_worker import __version__
from voxtral_worker.client.answers import Answers
from voxtral_worker.client.backlog import Backlog
from voxtral_worker.client.chat import Chat
from voxtral_worker.client.client import VoxtralClient
from voxtral_worker.client.errors import VoxtralError
from voxtral_worker.client.events import Event, Failure, Speech, Status
from voxtral_worker.client.load import Load
from voxtral_worker.client.loudspeaker import BYTES_PER_SAMPLE, RATE, Loudspeaker
from voxtral_worker.client.microphone import listen, open_library
from voxtral_worker.client.options import Options
from voxtral_worker.client.rest import Rest, checked_token, checked_url
from voxtral_worker.client.retry import Retry
from voxtral_worker.client.sound import BYTES_PER_SECOND, as_spoken, decode, paced, read_sound

DEFAULT_URL = "http://localhost:8000"
INTERRUPTED = 130
MOST_PAUSE_S = 60
SPEECH_FORMATS = ("wav", "mp3", "opus", "flac", "pcm")
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
    parser = make_parser()
    arguments = parser.parse_args(words)
    _take_variables(parser, arguments, os.environ)
    try:
        sys.exit(arguments.run(arguments))
    except VoxtralError as error:
        sys.exit(f"voxtral: {error}")
    except KeyboardInterrupt:
        # In `talk` and `chat`, Ctrl-C is the normal way to end.
        sys.exit(0 if arguments.run in (_talk, _chat) else INTERRUPTED)
    except BrokenPipeError:
        # The program that read our output has ended. Drop the buffered rest: Python would try to
        # write it at exit, and fail again.
        sys.stdout = None
        sys.exit(1)


def make_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    version = argparse.ArgumentParser(add_help=False)
    version.add_argument("--version", action="version", version=f"voxtral {__version__}")
    top = argparse.ArgumentParser(
        prog="voxtral", description="Serve, or talk with, a Voxtral worker.", parents=[version]
    )
    reached = argparse.ArgumentParser(add_help=False, parents=[version])
    reached.add_argument(
        "--url",
        type=_url,
        help="address of the worker; http:// may be left out "
        f"(default: VOXTRAL_URL, else {DEFAULT_URL})",
    )
    reached.add_argument(
        "--token",
        type=_token,
        help="API key or JWT, if the worker needs one; other users of this machine can see it on "
        "the command line, but not in the variable (default: VOXTRAL_API_KEY)",
    )
    talking = argparse.ArgumentParser(add_help=False, parents=[reached])
    talking.add_argument(
        "--mode",
        choices=("chat", "transcribe"),
        default="chat",
        help="answer, or transcribe what is said (default: %(default)s)",
    )
    talking.add_argument("--language", help="language of the speech, like en (default: detected)")
    talking.add_argument(
        "--retries",
        type=_whole,
        default=5,
        help="retries after a temporary refusal or a lost connection (default: %(default)s)",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    # For the list of commands in the help only: `main` passes them on with all of their options.
    commands.add_parser("serve", help="serve a model: needs the extra `worker`", add_help=False)
    commands.add_parser(
        "tail-check",
        help="check whether WINDOW_TAIL=sampled suits a model: needs the extra `worker`",
        add_help=False,
    )
    send = commands.add_parser(
        "send", parents=[talking], help="send a sound file, print the answers"
    )
    send.add_argument(
        "file", help="wav, flac, mp3 or ogg of any rate and number of channels; -: standard input"
    )
    send.add_argument(
        "--raw", action="store_true", help="the file is 16-bit mono PCM at 16 kHz without a header"
    )
    send.add_argument("--fast", action="store_true", help="send it faster than it was spoken")
    send.set_defaults(run=_send)
    talk = commands.add_parser("talk", parents=[talking], help="talk by microphone; Ctrl-C ends")
    talk.add_argument(
        "--voice", help="a voice that `health --json` lists (default: the worker's first, if any)"
    )
    talk.add_argument("--mute", action="store_true", help="print the answers, do not speak them")
    talk.add_argument(
        "--headset",
        action="store_true",
        help="keep listening while an answer is spoken, so that you can interrupt it; without a "
        "headset the microphone would hear the loudspeaker",
    )
    talk.set_defaults(run=_talk)
    speak = commands.add_parser(
        "speak", parents=[reached], help="speak a text with the worker's voice"
    )
    speak.add_argument("text", help="text to speak; -: standard input")
    speak.add_argument("-o", "--output", help="file to write (default: play it)")
    speak.add_argument("--voice", help="a voice that `health --json` lists")
    speak.add_argument(
        "--format",
        choices=SPEECH_FORMATS,
        help="format of the file (default: by its name, else wav)",
    )
    speak.set_defaults(run=_speak)
    chat = commands.add_parser(
        "chat", parents=[reached], help="type instead of talking, line by line; Ctrl-D ends"
    )
    chat.set_defaults(run=_chat)
    bench = commands.add_parser(
        "bench", parents=[reached], help="measure the worker with many users at once"
    )
    bench.add_argument(
        "--sessions", type=_positive, default=4, help="users at once (default: %(default)s)"
    )
    bench.add_argument(
        "--seconds",
        type=_positive,
        default=30,
        help="how long the users speak (default: %(default)s)",
    )
    bench.add_argument(
        "--pause",
        type=_seconds,
        default=1.5,
        help="seconds between two sentences (default: %(default)s)",
    )
    bench.add_argument(
        "--clip", action="append", help="sound file to speak (default: the worker's clips)"
    )
    bench.set_defaults(run=_bench)
    health = commands.add_parser("health", parents=[reached], help="show the worker's state")
    health.add_argument("--json", action="store_true", help="print the whole answer as JSON")
    health.set_defaults(run=_health)
    return top


def _take_variables(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, variables: Mapping[str, str]
) -> None:
    """Fill in missing options from the environment. An empty variable counts as unset."""
    for name, variable, read in (
        ("url", "VOXTRAL_URL", _url),
        ("token", "VOXTRAL_API_KEY", _token),
    ):
        text = variables.get(variable, "").strip()
        if getattr(arguments, name) is None and text:
            try:
                setattr(arguments, name, read(text))
            except argparse.ArgumentTypeError as error:
                parser.error(f"{variable}: {error}")
    arguments.url = arguments.url or DEFAULT_URL


def _url(text: str) -> str:
    try:
        return checked_url(text if "://" in text else f"http://{text}")
    except VoxtralError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _token(text: str) -> str:
    try:
        return checked_token(text)
    except VoxtralError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
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


if __name__ == "__main__":
    main()
