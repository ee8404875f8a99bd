"""What the docs must not leave out."""

import ast
import dataclasses
import inspect
import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from voxtral_worker import errors, metrics
from voxtral_worker.server import driver
from voxtral_worker.sessions import answering, messages, session
from voxtral_worker.sessions.config import OPTIONS
from voxtral_worker.settings import Settings, variable_of

ROOT = Path(__file__).resolve().parents[1]


def docs() -> str:
    return "\n".join(
        path.read_text("utf-8") for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
    )


def missing(names: set[str], text: str) -> list[str]:
    """Names that stand alone nowhere in a text: `PORT_HEALTH` does not name `PORT`."""
    return sorted(name for name in names if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text))


def calls_of(name: str) -> list[ast.Call]:
    """Every call of a message class where messages are made."""
    return [
        node
        for module in (answering, session, driver)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


def literals(nodes: list[ast.expr]) -> set[str]:
    return {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def statuses() -> set[str]:
    stopped = [
        node.args[0]
        for node in ast.walk(ast.parse(inspect.getsource(session)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr == "stop" and node.args
    ]
    elsewhere = {"session_expired", "draining", "connected"}
    return literals([call.args[0] for call in calls_of("Status")] + stopped) | elsewhere


def message_types() -> set[str]:
    kinds = {getattr(kind, "kind", None) for kind in vars(messages).values()}
    plain = literals([call.args[0] for call in calls_of("Plain")])
    return {kind for kind in kinds if isinstance(kind, str)} | plain


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
    names = {variable_of(field) for field in dataclasses.fields(Settings)}
    return {name for name in names if not name.startswith("RUNPOD_")}


def test_the_names_looked_for_are_all_there_are() -> None:
    assert {"speech_started", "interrupted", "cancelled", "history_trimmed"} <= statuses()
    assert {"text_delta", "text_response", "error", "heartbeat"} <= message_types()
    assert {"RATE_LIMITED", "GPU_OOM", "NOT_READY", "SESSION_NOT_FOUND"} <= error_codes()
    assert {"websocket_connections_total", "voxtral_turn_stage_seconds"} <= metric_names()
    assert {"MAX_SESSIONS", "PORT_HEALTH", "API_KEYS"} <= setting_names()


def test_every_setting_is_in_the_readme() -> None:
    assert missing(setting_names(), (ROOT / "README.md").read_text("utf-8")) == []


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
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    left: list[str] = []
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if not path.is_file() or path.is_relative_to(ROOT / "models"):
            continue
        data = path.read_bytes()
        if b"\0" not in data and marks.search(data.decode("utf-8", "replace")):
            left.append(name)
    assert left == []
