"""`python -m voxtral_worker` and `voxtral serve`: the streaming server alone.

The client's installation lacks the server's libraries, so they are imported only after a look
whether they are there.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence

from voxtral_worker import __version__

# The settings that people need most when they try the worker. All others are variables only.
OPTIONS = {"--model": "MODEL_ID", "--host": "HOST", "--port": "PORT"}
# The modules of the extra `worker` without which the server cannot start.
NEEDED = (
    "accelerate",
    "aiohttp",
    "av",
    "huggingface_hub",
    "jwt",
    "llguidance",
    "mistral_common",
    "onnxruntime",
    "prometheus_client",
    "psutil",
    "pydantic",
    "pydantic_core",
    "pydantic_settings",
    "py3langid",
    "pythonjsonlogger",
    "sentencex",
    "silero_vad",
    "torch",
    "transformers",
)


def main(words: Sequence[str] | None = None, program: str = "python -m voxtral_worker") -> int:
    """Serve until a signal comes. Returns the exit code; exits with 2 for wrong usage."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        sys.stderr.write(
            f"{program}: the extra `worker` is missing ({', '.join(missing)}): "
            "pip install 'voxtral-worker[worker]'\n"
        )
        return 1
    given = vars(make_parser(program).parse_args(words))
    from voxtral_worker.worker import main as start

    return start(None, {name: text for name, text in given.items() if text is not None})


def make_parser(program: str) -> argparse.ArgumentParser:
    """The options. Each has the same text as its environment variable would."""
    from voxtral_worker.settings import VARIABLES

    parser = argparse.ArgumentParser(
        prog=program,
        description="Serve live conversation over REST and WebSocket.",
        epilog="An option overrides its environment variable. All other settings are environment "
        "variables only.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    for option, variable in OPTIONS.items():
        field = VARIABLES[variable]
        default = "" if field.default is None else f", else {field.default}"
        parser.add_argument(
            option,
            dest=variable,
            metavar=option[2:].upper(),
            type=_checked(variable),
            help=f"{field.description} (default: {variable}{default})".replace("%", "%%"),
        )
    return parser


def _checked(variable: str) -> Callable[[str], str]:
    from voxtral_worker.settings import SettingsError, read_settings

    def check(text: str) -> str:
        if not text.strip():
            raise argparse.ArgumentTypeError("it is empty")
        try:
            read_settings({variable: text})
        except SettingsError as error:
            raise argparse.ArgumentTypeError(f"it {error.problems[variable]}") from error
        return text

    return check


if __name__ == "__main__":
    sys.exit(main())
