"""Tasks that live as long as the worker, and who owns every other one."""

import ast
import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.metric_values import value_of
from voxtral_worker import metrics, supervision
from voxtral_worker.supervision import supervised

SOURCE = Path(supervision.__file__).parent
SPAWNS = {
    "create_task",
    "ensure_future",
    "run_coroutine_threadsafe",
    "run_in_executor",
    "to_thread",
    "Thread",
    "ThreadPoolExecutor",
    "ProcessPoolExecutor",
    "Timer",
    "Popen",
    "fork",
}
# Each call that makes a task or a thread, by file and function, and who sees to its end. Two calls
# in one function are two entries: a second one without an owner of its own is found.
OWNERS = {
    "client/functions.py run": ["the loop's own pool, for as long as the function takes"],
    "client/calls.py Calls.start": ["stop, which cancels and awaits it"],
    "engine/grammar.py Grammars.__init__": ["stop, which ends its loop"],
    "supervision.py supervised": ["the caller, which cancels it"],
    "tracing.py Tracing.stop": ["ends with the flush, which is waited for a limited time"],
    "logs.py BackgroundHandler.__init__": ["lives as long as the process"],
    "server/driver.py Driver.__init__": ["close, which cancels and awaits it"],
    "server/connection.py Connection.__init__": ["finished, which awaits and cancels it"],
    "server/connection.py Connection._send_large": [
        "the writer; without it, the end of the transport, which ends every send"
    ],
    "read_ahead.py reading_ahead": ["ended and joined in the finally"],
    "server/native/socket.py _serve.converse": ["cancelled in the finally"],
    "server/thread.py ServerThread.__init__": ["stop, which ends its loop and joins it"],
    "server/thread.py ServerThread.begin": ["the caller, who gets its future"],
    "server/openai/chat.py complete.work": ["the task group"],
    "server/openai/stream.py relay": ["awaited, or cancelled in the finally"],
    "server/openai/stream.py while_connected": ["awaited, or cancelled in the finally"],
    "server/openai/realtime/transcriber.py Transcriber.start": [
        "stop, which cancels and awaits it"
    ],
    "jobs/text.py answer_texts": ["the task group"],
    "jobs/run.py JobRun.__init__": ["stop and fail, which cancel it"],
    "speech/speech.py Speech.__init__": ["stop, which ends its loop and joins it"],
    "speech/speech.py Speech._begin": ["stop, which cancels and awaits it; say cancels its own"],
    "speech/speaker.py Speaker.say": ["hush, which cancels it, and close, which awaits it"],
    "jobs/sdk.py JobLoop._begin": ["ends the loop that runs it, once in a process"],
    "engine/engine.py Engine.__init__": ["stop, which joins it"],
    "engine/download.py _told": ["ended and joined in the finally"],
    "engine/transcript.py write_down": ["the task group"],
    "processes.py Child.__init__": ["end, which closes its socket and kills it"],
    "speech/process.py VoiceProcess._start": ["close, or its loss, which cancel it"],
    "audio/decoder/child.py ForkServer._take": ["its limit of time, and the parent's end"],
    "audio/aside.py run_aside": ["ends with the work, whose result is awaited"],
    "client/sync.py LoopThread.__init__": ["stop, which ends its loop and joins it"],
    "client/sync.py LoopThread.run": ["awaited at once"],
    "client/sync.py _read": ["awaited at once"],
    "client/feed.py Feed.__init__": ["stop, which cancels and awaits it"],
    "turns/vad.py Vad.__init__": ["stop, which joins it"],
    "turns/vad.py _use_one_thread": ["joined at once"],
    "turns/completeness.py Completeness.__init__": ["stop, which joins it"],
}
# What waits for a disk, a network, another process or a clock, or reads something of any size. On
# an event loop every session waits along.
BLOCKING = {
    "open",
    "input",
    "time.sleep",
    "socket.create_connection",
    "socket.getaddrinfo",
    "urllib.request.urlopen",
    "np.load",
    "np.save",
    "numpy.load",
    "torch.load",
    "json.load",
    "pickle.load",
    "pickle.loads",
    "soundfile.read",
    "soundfile.SoundFile",
    "av.open",
    "os.system",
    "os.popen",
    "read_clip",
    "read_file",
    "from_base64",
}
BLOCKING_MODULES = {"requests", "subprocess", "shutil"}
BLOCKING_METHODS = {
    "read_text",
    "read_bytes",
    "write_text",
    "write_bytes",
}
# Parsing takes as long as the text is; what is parsed on an event loop has a small limit.
PARSERS = {"json.loads"}
PARSED = {
    "audio/decoder/process.py _require_ready": "the decoder's own first line",
    "checkpoint.py _read": "the model's own files, before the server listens",
    "client/functions.py run": "what a function of the caller's has returned",
    "client/chat.py Chat._events": "the client's loop, one event of its worker",
    "client/assembly.py Assembly.take": "the client's loop, one message of its worker",
    "client/rest.py read_object": "the client's own",
    "engine/calls.py _read": "what the model wrote: at most 4096 tokens",
    "engine/grammar.py Shape._answer": "a schema: MAX_TOOLS_BYTES",
    "engine/grammar.py Shape._arguments": "a schema: MAX_TOOLS_BYTES",
    "engine/tools.py Tool.as_prompt": "a schema: MAX_TOOLS_BYTES",
    "engine/tools.py _value": "arguments of a call that are in a history already",
    "jobs/local.py _read_job": "the operator's file, before any job",
    "json_text.py read_json": "what a caller sent: MAX_CONTAINERS and MAX_VALUES",
    "speech/plain.py _is_json": "a sentence: at most 4096 characters",
    "sessions/record.py read_record": "the worker's own records",
}


class Calls(ast.NodeVisitor):
    """Every call of a file with the function that it stands in, and whether that is async.

    A lambda or a plain function within an async one is not run by it, but by its later caller.
    """

    def __init__(self) -> None:
        self.found: list[tuple[str, bool, ast.Call]] = []
        self._names: list[str] = []
        self._is_async = [False]

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._names.append(node.name)
        self.generic_visit(node)
        self._names.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._names.append(node.name)
        self._is_async.append(isinstance(node, ast.AsyncFunctionDef))
        self.generic_visit(node)
        self._is_async.pop()
        self._names.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._is_async.append(False)
        self.generic_visit(node)
        self._is_async.pop()

    def visit_Call(self, node: ast.Call) -> None:
        self.found.append((".".join(self._names), self._is_async[-1], node))
        self.generic_visit(node)


def calls_in(source: str) -> list[tuple[str, bool, ast.Call]]:
    visitor = Calls()
    # Python 3.11 fails here when the collector ends an object that logs a traceback, which is
    # parsed, too (cpython issue 106905).
    gc.disable()
    try:
        tree = ast.parse(source)
    finally:
        gc.enable()
    visitor.visit(tree)
    return visitor.found


def calls_of_the_worker() -> Iterator[tuple[str, str, bool, ast.Call]]:
    for path in sorted(SOURCE.rglob("*.py")):
        for function, is_async, call in calls_in(path.read_text("utf-8")):
            yield str(path.relative_to(SOURCE)), function, is_async, call


def makes_a_task(call: ast.Call) -> bool:
    return getattr(call.func, "attr", getattr(call.func, "id", None)) in SPAWNS


def blocks(call: ast.Call) -> bool:
    """Whether a call is one of those that an async function must not make itself."""
    name = ast.unparse(call.func)
    return (
        name in BLOCKING
        or name.partition(".")[0] in BLOCKING_MODULES
        or (isinstance(call.func, ast.Attribute) and call.func.attr in BLOCKING_METHODS)
    )


def test_every_task_and_thread_has_an_owner() -> None:
    made = Counter(
        f"{file} {function}"
        for file, function, _, call in calls_of_the_worker()
        if makes_a_task(call)
    )
    owned = {place: len(owners) for place, owners in OWNERS.items()}
    assert dict(made) == owned, "name who ends it"


def test_no_async_function_makes_a_call_that_blocks() -> None:
    found = [
        f"{file} {function}: {ast.unparse(call)[:80]}"
        for file, function, is_async, call in calls_of_the_worker()
        if is_async and blocks(call)
    ]
    assert found == [], "do it in `run_aside`"


def test_what_parses_a_text_of_any_size_is_named_with_its_limit() -> None:
    found = {
        f"{file} {function}"
        for file, function, _, call in calls_of_the_worker()
        if ast.unparse(call.func) in PARSERS
    }
    assert found == PARSED.keys(), "say how large it may be, or parse it aside"


@pytest.mark.parametrize(
    "line",
    [
        "open('a')",
        "time.sleep(1)",
        "requests.get('a')",
        "subprocess.run(['a'])",
        "np.load('a')",
        "Path('a').read_text()",
    ],
)
def test_the_rule_finds_a_call_that_blocks_in_an_async_function_alone(line: str) -> None:
    def found(source: str) -> bool:
        return any(is_async and blocks(call) for _, is_async, call in calls_in(source))

    assert found(f"async def work():\n    {line}")
    assert found(f"class A:\n    async def work(self):\n        if x:\n            y = {line}")
    assert not found(f"def work():\n    {line}")
    assert not found(f"async def work():\n    await run_aside(lambda _: {line})")


def test_the_rule_tells_two_tasks_of_one_function_apart() -> None:
    source = "async def work():\n    a = asyncio.create_task(b)\n    asyncio.create_task(c)"
    assert [function for function, _, call in calls_in(source) if makes_a_task(call)] == [
        "work",
        "work",
    ]


async def test_a_task_that_fails_is_counted_told_and_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervision, "RESTART_S", 0.01)
    before = value_of(metrics.task_failures.labels("test"))
    runs = []

    async def work() -> None:
        runs.append(1)
        if len(runs) < 3:
            raise KeyError("gone")

    async with asyncio.timeout(15):
        await supervised("test", work)
    assert len(runs) == 3
    assert value_of(metrics.task_failures.labels("test")) == before + 2
    assert "test failed" in caplog.text


async def test_a_supervised_task_ends_when_it_is_cancelled() -> None:
    task = supervised("test", asyncio.Event().wait)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=15)
    assert task.cancelled()
