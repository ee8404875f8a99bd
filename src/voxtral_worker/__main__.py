"""`python -m voxtral_worker` and `voxtral serve`: the streaming server alone.

The server's libraries are imported only after the options are checked, so `--help` needs none of
them.
"""

import argparse
import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Sequence

from voxtral_worker import __version__
from voxtral_worker.settings import Settings, variable_of

# The settings that people need most when they try the worker. All others are variables only.
OPTIONS = {"--model": "model_id", "--host": "host", "--port": "port"}
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
    "py3langid",
    "pythonjsonlogger",
    "sentencex",
    "silero_vad",
    "torch",
    "transformers",
)


def main(words: Sequence[str] | None = None, program: str = "python -m voxtral_worker") -> int:
    """Serve until a signal comes. Returns the exit code; exits with 2 for wrong usage."""
    given = vars(make_parser(program).parse_args(words))
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        sys.stderr.write(
            f"{program}: the extra `worker` is missing ({', '.join(missing)}): "
            "pip install 'voxtral-worker[worker]'\n"
        )
        return 1
    from voxtral_worker.worker import main as start

    return start(None, {name: text for name, text in given.items() if text is not None})


def make_parser(program: str) -> argparse.ArgumentParser:
    """The options. Each has the same text as its environment variable would."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Serve live conversation over REST and WebSocket.",
        epilog="An option overrides its environment variable. All other settings are environment "
        "variables only.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    fields = {field.name: field for field in dataclasses.fields(Settings)}
    for option, name in OPTIONS.items():
        field = fields[name]
        variable = variable_of(field)
        default = "" if field.default is None else f", else {field.default}"
        parser.add_argument(
            option,
            dest=variable,
            metavar=option[2:].upper(),
            type=_checked(field.metadata["kind"].read, field.metadata["kind"].allowed),
            help=f"{field.metadata['doc']} (default: {variable}{default})".replace("%", "%%"),
        )
    return parser


def _checked(read: Callable[[str], object], allowed: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        try:
            if not text.strip():
                raise ValueError(text)
            read(text.strip())
        except (ValueError, KeyError) as error:
            raise argparse.ArgumentTypeError(f"it is {text!r}, but must be {allowed}") from error
        return text

    return check


if __name__ == "__main__":
    sys.exit(main())
