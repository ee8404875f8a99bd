"""`python -m voxtral_worker` and `voxtral serve`: the streaming server alone.

The server's libraries, those of the settings included, are imported only after the options are
parsed, so `--help` needs none of them.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence

from voxtral_worker import __version__

# The settings that people need most when they try the worker, each with its variable. All others
# are variables only.
OPTIONS = {
    "--model": ("MODEL_ID", "hub id or local folder of the model (default: MODEL_ID)"),
    "--host": ("HOST", "address to listen on (default: HOST, else 0.0.0.0)"),
    "--port": ("PORT", "port of REST and WebSocket (default: PORT, else 8000)"),
}
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
    parser = make_parser(program)
    given = {
        name: text for name, text in vars(parser.parse_args(words)).items() if text is not None
    }
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        sys.stderr.write(
            f"{program}: the extra `worker` is missing ({', '.join(missing)}): "
            "pip install 'voxtral-worker[worker]'\n"
        )
        return 1
    for option, (variable, _) in OPTIONS.items():
        if problem := _problem_with(variable, given.get(variable)):
            parser.error(f"argument {option}: it {problem}")
    from voxtral_worker.worker import main as start

    return start(None, given)


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
    for option, (variable, does) in OPTIONS.items():
        parser.add_argument(option, dest=variable, metavar=option[2:].upper(), help=does)
    return parser


def _problem_with(variable: str, text: str | None) -> str | None:
    from voxtral_worker.settings import SettingsError, read_settings

    if text is None:
        return None
    if not text.strip():
        return "is empty"
    try:
        read_settings({variable: text})
    except SettingsError as error:
        return error.problems[variable]
    return None


if __name__ == "__main__":
    sys.exit(main())
