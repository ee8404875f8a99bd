"""Decides what `python handler.py` does, by the environment and by its flags."""

import argparse
from collections.abc import Sequence
from enum import Enum, auto

from voxtral_worker.settings import Settings


class Mode(Enum):
    """What the process does."""

    # Serve, and take jobs from RunPod's queue.
    QUEUE = auto()
    # Serve only: a Pod, or a load-balancing endpoint.
    SERVER_ONLY = auto()
    # Serve, and offer the SDK's local job API.
    LOCAL_API = auto()
    # Run one job and exit.
    LOCAL_TEST = auto()


def read_flags(argv: Sequence[str]) -> argparse.Namespace:
    """The SDK's flags, read as the SDK reads them: they may be abbreviated, unknown ones ignored.

    A flag that was not given is None. Raises SystemExit if a flag is ambiguous.
    """
    parser = argparse.ArgumentParser(prog="handler.py")
    parser.add_argument("--rp_log_level", help="ERROR, WARN, INFO or DEBUG")
    parser.add_argument("--rp_debugger", action="store_true", default=None)
    parser.add_argument(
        "--rp_serve_api", action="store_true", default=None, help="serve the local job API as well"
    )
    parser.add_argument(
        "--rp_api_port", type=int, help="port of the job API (default: the free one after PORT)"
    )
    parser.add_argument("--rp_api_concurrency", type=int)
    parser.add_argument("--rp_api_host")
    parser.add_argument("--test_input", help="a job as JSON: run it to its end and exit")
    flags, _ = parser.parse_known_args(list(argv))
    return flags


def which_mode(settings: Settings, argv: Sequence[str]) -> Mode:
    """What to do. A flag has priority over the environment."""
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
