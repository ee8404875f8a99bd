"""Decides what `python handler.py` does, from where it runs and what it is told."""

import argparse
from collections.abc import Sequence
from enum import Enum, auto

from voxtral_worker.settings import Settings


class Mode(Enum):
    """What the process does once it is started."""

    QUEUE = auto()
    SERVER_ONLY = auto()
    LOCAL_API = auto()
    LOCAL_TEST = auto()


def read_flags(argv: Sequence[str]) -> argparse.Namespace:
    """The SDK's flags, read the way it reads them: abbreviated, and beside unknown ones.

    A flag that was not given is None. Raises SystemExit when a flag is ambiguous.
    """
    parser = argparse.ArgumentParser(prog="handler.py")
    parser.add_argument("--rp_log_level", help="ERROR, WARN, INFO or DEBUG")
    parser.add_argument("--rp_debugger", action="store_true", default=None)
    parser.add_argument(
        "--rp_serve_api", action="store_true", default=None, help="serve the local job API as well"
    )
    parser.add_argument("--rp_api_port", type=int, help="its port; by default the one after PORT")
    parser.add_argument("--rp_api_concurrency", type=int)
    parser.add_argument("--rp_api_host")
    parser.add_argument("--test_input", help="run this job, as JSON, to its end and leave")
    flags, _ = parser.parse_known_args(list(argv))
    return flags


def which_mode(settings: Settings, argv: Sequence[str]) -> Mode:
    """What to do; a flag goes before what the place suggests."""
    flags = read_flags(argv)
    if flags.rp_serve_api:
        return Mode.LOCAL_API
    if flags.test_input is not None:
        return Mode.LOCAL_TEST
    if settings.is_queue_worker:
        return Mode.QUEUE
    if settings.runs_on_runpod:
        return Mode.SERVER_ONLY
    return Mode.LOCAL_TEST
