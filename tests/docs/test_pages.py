"""What the docs must not leave out."""

import ast
import dataclasses
import inspect
import re
import subprocess

import pytest
from prometheus_client.metrics import MetricWrapperBase

from builder import write_configuration, write_options
from voxtral_worker import errors, metrics
from voxtral_worker.close_codes import CloseCode
from voxtral_worker.server.native import dialect, messages
from voxtral_worker.sessions.config import OPTIONS
from voxtral_worker.settings import REPOSITORY, VARIABLES


def docs() -> str:
    return "\n".join(
        path.read_text("utf-8")
        for path in [REPOSITORY / "README.md", *sorted(REPOSITORY.glob("docs/*.md"))]
    )


def missing(names: set[str], text: str) -> list[str]:
    """Names that stand alone nowhere in a text: `PORT_HEALTH` does not name `PORT`."""
    return sorted(name for name in names if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text))


def calls_of(*names: str) -> list[ast.Call]:
    """Every call by which the documented dialect makes a message."""
    return [
        node
        for module in (dialect, messages)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    ]


def literals(nodes: list[ast.expr]) -> set[str]:
    return {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def statuses() -> set[str]:
    shown = [
        value
        for module in (dialect, messages)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "status"
    ]
    written = literals([call.args[0] for call in calls_of("_status")] + shown)
    return written | set(messages._STOPPED.values())


def message_types() -> set[str]:
    return literals([call.args[0] for call in calls_of("Message")])


def error_codes() -> set[str]:
    return {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.WorkerError)
    }


def metric_names() -> set[str]:
    instruments = [m for m in vars(metrics).values() if isinstance(m, MetricWrapperBase)]
    families = {family.name: family for m in instruments for family in m.describe()}
    return {
        name + "_total" if family.type == "counter" else name for name, family in families.items()
    }


def setting_names() -> set[str]:
    return {name for name in VARIABLES if not name.startswith("RUNPOD_")}


def test_the_names_looked_for_are_all_there_are() -> None:
    assert {"speech_started", "interrupted", "cancelled", "history_trimmed"} <= statuses()
    assert {"connected", "resumed", "draining", "session_expired"} <= statuses()
    assert {"text_delta", "text_response", "error", "heartbeat"} <= message_types()
    assert {"RATE_LIMITED", "GPU_OOM", "NOT_READY", "SESSION_NOT_FOUND"} <= error_codes()
    assert {"websocket_connections_total", "voxtral_turn_stage_seconds"} <= metric_names()
    assert {"MAX_SESSIONS", "PORT_HEALTH", "API_KEYS"} <= setting_names()


def test_every_setting_is_in_the_page_of_settings() -> None:
    assert missing(setting_names(), write_configuration.PAGE.read_text("utf-8")) == []


def test_the_tables_of_settings_are_what_their_script_writes() -> None:
    page, readme = (path.read_text("utf-8") for path in write_configuration.FILES)
    again = "run: python -m builder.write_configuration"
    assert page == write_configuration.page(), again
    assert readme == write_configuration.readme(readme), again


@pytest.mark.parametrize("marker", [write_configuration.BEGIN, write_configuration.END])
def test_a_readme_without_a_place_for_its_settings_is_refused(marker: str) -> None:
    text = write_configuration.README.read_text("utf-8").replace(marker, "")
    with pytest.raises(ValueError, match="settings"):
        write_configuration.readme(text)


@pytest.mark.parametrize("table", write_options.TABLES)
def test_a_table_of_options_is_what_its_script_writes(table: write_options.Table) -> None:
    page = table.page.read_text("utf-8")
    assert page == write_options.written(table, page), "run: python -m builder.write_options"
    with pytest.raises(ValueError, match="options"):
        write_options.written(table, page.replace(table.begin, ""))


def test_every_option_says_what_it_may_be_and_what_it_does() -> None:
    for table in write_options.TABLES:
        for row in table.rows():
            assert row.may_be and row.does, row
            assert not any("|" in cell for cell in dataclasses.astuple(row)), row


def test_every_cell_of_a_setting_is_filled_and_splits_no_row() -> None:
    for row in write_configuration.rows():
        cells = dataclasses.astuple(row)
        assert all(cells), row
        assert not any("|" in cell or "\n" in cell for cell in cells), row


def test_every_close_code_has_a_reason_and_is_in_the_docs() -> None:
    assert all(code.reason for code in CloseCode)
    # The log's, for a socket that ended without any.
    sent = set(CloseCode) - {CloseCode.LOST}
    assert missing({str(code.value) for code in sent}, docs()) == []


def test_every_message_type_and_status_is_in_the_docs() -> None:
    assert missing(message_types() | statuses(), docs()) == []


def test_every_control_and_every_option_of_a_session_is_in_the_docs() -> None:
    assert missing({*messages.CONTROL_TYPES, *OPTIONS}, docs()) == []


def test_every_error_code_is_in_the_docs() -> None:
    assert missing(error_codes(), docs()) == []


def test_every_metric_is_in_the_docs() -> None:
    assert missing(metric_names(), docs()) == []


def test_no_file_leaves_work_for_later() -> None:
    # Put together here, so that this file does not name them itself.
    marks = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    left: list[str] = []
    for name in listed.stdout.decode().split("\0"):
        path = REPOSITORY / name
        if not path.is_file() or path.is_relative_to(REPOSITORY / "models"):
            continue
        data = path.read_bytes()
        if b"\0" not in data and marks.search(data.decode("utf-8", "replace")):
            left.append(name)
    assert left == []
