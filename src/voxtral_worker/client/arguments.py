"""What may stand behind `voxtral`: the commands and their options."""

import argparse
from collections.abc import Mapping
from typing import TypeAlias

from voxtral_worker import __version__
from voxtral_worker.client.errors import VoxtralError
from voxtral_worker.client.rest import checked_token, checked_url

DEFAULT_URL = "http://localhost:8000"
MOST_PAUSE_S = 60
SPEECH_FORMATS = ("wav", "mp3", "opus", "flac", "pcm")

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def parse(words: list[str], variables: Mapping[str, str]) -> argparse.Namespace:
    """The `command`, and its options. Exits with 2 and a line for words that cannot be used."""
    parser = make_parser()
    arguments = parser.parse_args(words)
    _take_variables(parser, arguments, variables)
    return arguments


def make_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    version = argparse.ArgumentParser(add_help=False)
    version.add_argument("--version", action="version", version=f"voxtral {__version__}")
    top = argparse.ArgumentParser(
        prog="voxtral", description="Serve, or talk with, a Voxtral worker.", parents=[version]
    )
    reached = _reaching(version)
    talking = _talking(reached)
    commands = top.add_subparsers(required=True, metavar="COMMAND", dest="command")
    # For the list of commands in the help only: `main` passes them on with all of their options.
    commands.add_parser("serve", help="serve a model: needs the extra `worker`", add_help=False)
    commands.add_parser(
        "tail-check",
        help="check whether WINDOW_TAIL=sampled suits a model: needs the extra `worker`",
        add_help=False,
    )
    _add_send(commands, talking)
    _add_talk(commands, talking)
    _add_speak(commands, reached)
    commands.add_parser(
        "chat", parents=[reached], help="type instead of talking, line by line; Ctrl-D ends"
    )
    _add_bench(commands, reached)
    health = commands.add_parser("health", parents=[reached], help="show the worker's state")
    health.add_argument("--json", action="store_true", help="print the whole answer as JSON")
    return top


def _reaching(version: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Options of all commands that reach a worker."""
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
    return reached


def _talking(reached: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Options of the commands that send speech."""
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
    return talking


def _add_send(commands: Commands, parent: argparse.ArgumentParser) -> None:
    send = commands.add_parser(
        "send", parents=[parent], help="send a sound file, print the answers"
    )
    send.add_argument(
        "file", help="wav, flac, mp3 or ogg of any rate and number of channels; -: standard input"
    )
    send.add_argument(
        "--raw", action="store_true", help="the file is 16-bit mono PCM at 16 kHz without a header"
    )
    send.add_argument("--fast", action="store_true", help="send it faster than it was spoken")


def _add_talk(commands: Commands, parent: argparse.ArgumentParser) -> None:
    talk = commands.add_parser("talk", parents=[parent], help="talk by microphone; Ctrl-C ends")
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


def _add_speak(commands: Commands, parent: argparse.ArgumentParser) -> None:
    speak = commands.add_parser(
        "speak", parents=[parent], help="speak a text with the worker's voice"
    )
    speak.add_argument("text", help="text to speak; -: standard input")
    speak.add_argument("-o", "--output", help="file to write (default: play it)")
    speak.add_argument("--voice", help="a voice that `health --json` lists")
    speak.add_argument(
        "--format",
        choices=SPEECH_FORMATS,
        help="format of the file (default: by its name, else wav)",
    )


def _add_bench(commands: Commands, parent: argparse.ArgumentParser) -> None:
    bench = commands.add_parser(
        "bench", parents=[parent], help="measure the worker with many users at once"
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
