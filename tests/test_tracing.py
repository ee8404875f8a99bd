"""A turn is one span with its stages as children; it says when and how much, never what."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest
import torch
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.ports import free_port
from tests.support.running_server import RunningServer
from tests.support.talker import talk
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.errors import EngineFailure
from voxtral_worker.logs import session_mark
from voxtral_worker.server.lifecycle import Parts
from voxtral_worker.tracing import Tracing, open_tracing
from voxtral_worker.turns.vad import Vad

Start = Callable[..., RunningServer]
METRICS = {
    "speech_ms": 640,
    "endpoint_ms": 512.5,
    "queue_ms": 1.0,
    "encode_ms": 2.0,
    "prefill_ms": 3.0,
    "first_token_ms": 6.0,
    "total_ms": 600.25,
    "tokens": 7,
    "cached_tokens": 5,
    "speculative": False,
}
TURN = {
    "text": "never to be seen",
    "turn_id": "4",
    "source": "audio",
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 9, "completion_tokens": 7, "cached_tokens": 5},
    "metrics": METRICS,
}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Iterator[Tracing]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(provider)
    yield tracing
    tracing.stop()


def tree(spans: tuple[ReadableSpan, ...]) -> tuple[ReadableSpan, list[ReadableSpan]]:
    (root,) = [span for span in spans if span.parent is None]
    children = [span for span in spans if span.parent is not None]
    for span in children:
        assert span.parent is not None and root.context is not None
        assert span.parent.span_id == root.context.span_id
    return root, children


def end_of(span: ReadableSpan) -> int:
    assert span.end_time is not None
    return span.end_time


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def check_is_gapless(root: ReadableSpan, children: list[ReadableSpan]) -> None:
    assert children[0].start_time == root.start_time
    assert all(before.end_time == after.start_time for before, after in pairwise(children))
    # The metrics are rounded to microseconds.
    assert abs(end_of(children[-1]) - end_of(root)) < 5_000


def test_the_stages_follow_each_other_and_fill_the_turn(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    tracing.answered("s1", TURN, 10**18)
    root, children = tree(exporter.get_finished_spans())
    assert [span.name for span in children] == [
        "listen", "endpoint", "queue", "encode", "prefill", "decode",
    ]  # fmt: skip
    check_is_gapless(root, children)
    assert root.name == "turn"
    assert root.end_time == 10**18
    assert root.start_time is not None
    assert end_of(root) - root.start_time == 1_240_250_000
    assert attributes_of(root) == {
        "session.id": "s1",
        "voxtral.turn_id": "4",
        "voxtral.source": "audio",
        "voxtral.finish_reason": "stop",
        "voxtral.prompt_tokens": 9,
        "voxtral.tokens": 7,
        "voxtral.cached_tokens": 5,
        "voxtral.speculative": False,
    }


async def test_turns_of_a_session_are_traced_and_their_words_are_not(
    start_server: Start, vad: Vad, clip: bytes, tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    server = start_server(ready=False)
    loaded = LoadedModel(None, None, "fake", None, torch.device("cpu"), torch.float32)
    parts = Parts(server.engine, vad, loaded, tracing)  # type: ignore[arg-type]
    server.thread.become_ready(parts)
    async with talk(server) as talker:
        await talker.send(clip)
        spoken = await talker.until("text_response")
        await talker.text("my-question")
        await talker.until("text_response")
        server.engine.refuses = EngineFailure("broken")
        await talker.text("my-question")
        await talker.until("error")
    spans = exporter.get_finished_spans()
    # A span is finished after those within it.
    heard = spans[: [span.name for span in spans].index("turn") + 1]
    root, children = tree(heard)
    check_is_gapless(root, children)
    assert children[0].name == "listen"
    assert attributes_of(root)["session.id"] == session_mark(talker.seen[0]["session_id"])
    assert attributes_of(root)["voxtral.tokens"] == spoken["metrics"]["tokens"] == 3
    of_text = [span for span in spans[len(heard) :] if span.name == "turn"][0]
    assert attributes_of(of_text)["voxtral.source"] == "text"
    failed = spans[-1]
    assert (failed.status.is_ok, failed.status.description) == (False, "PROCESSING_ERROR")
    told = " ".join(span.to_json() for span in spans)
    assert "my-question" not in told
    assert "You said" not in told


class Collector(BaseHTTPRequestHandler):
    """Takes what is exported, as a collector does."""

    taken: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.taken.append((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    taken: list[tuple[str, bytes]] = []
    handler = type("Handler", (Collector,), {"taken": taken})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", taken
    server.shutdown()
    server.server_close()
    thread.join()


def test_spans_reach_the_collector_that_is_named_before_the_worker_ends(
    collector: tuple[str, list[tuple[str, bytes]]],
) -> None:
    address, taken = collector
    tracing = open_tracing(address + "/", "ours")
    assert tracing is not None
    tracing.answered("s1", TURN, 10**18)
    tracing.failed("s1", "5", "GPU_OOM", 1.5, 10**18)
    tracing.stop()
    ((path, body),) = taken
    assert path == "/v1/traces"
    (exported,) = ExportTraceServiceRequest.FromString(body).resource_spans
    names = {entry.key: entry.value.string_value for entry in exported.resource.attributes}
    assert names["service.name"] == "ours"
    assert len(exported.scope_spans[0].spans) == 8


def test_a_collector_that_is_gone_does_not_hold_up_the_end() -> None:
    tracing = open_tracing(f"http://127.0.0.1:{free_port()}", "ours")
    assert tracing is not None
    for _ in range(100):
        tracing.answered("s1", TURN, 10**18)
    tracing.stop(0.2)


def test_without_a_collector_nothing_of_it_is_imported() -> None:
    code = (
        "import sys; from voxtral_worker import worker, tracing; "
        "traced = tracing.open_tracing(None, 'ours'); "
        "sys.exit(traced is not None or any(m.startswith('opentelemetry') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
