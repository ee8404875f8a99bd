"""What `python handler.py` does where."""

import pytest

from voxtral_worker.jobs.mode import Mode, read_flags, which_mode
from voxtral_worker.settings import read_settings

QUEUE = {"RUNPOD_POD_ID": "p", "RUNPOD_WEBHOOK_GET_JOB": "http://127.0.0.1/job-take/$ID?gpu=F"}
POD = {"RUNPOD_POD_ID": "p"}


@pytest.mark.parametrize(
    ("environment", "argv", "mode"),
    [
        (QUEUE, [], Mode.QUEUE),
        (POD, [], Mode.SERVER_ONLY),
        ({}, [], Mode.LOCAL_TEST),
        ({}, ["--rp_serve_api"], Mode.LOCAL_API),
        ({}, ["--rp_s"], Mode.LOCAL_API),
        (POD, ["--rp_serve_api", "--rp_api_port", "9000"], Mode.LOCAL_API),
        (QUEUE, ["--test_input", "{}"], Mode.LOCAL_TEST),
        ({}, ["--test={}"], Mode.LOCAL_TEST),
        ({}, ["--unknown"], Mode.LOCAL_TEST),
    ],
)
def test_flags_go_before_the_place(
    environment: dict[str, str], argv: list[str], mode: Mode
) -> None:
    assert which_mode(read_settings(environment), argv) is mode


def test_flags_are_read_as_the_sdk_reads_them() -> None:
    flags = read_flags(["--rp_api_p", "9000", "--rp_log", "INFO", "--other"])
    assert (flags.rp_api_port, flags.rp_log_level, flags.test_input) == (9000, "INFO", None)
