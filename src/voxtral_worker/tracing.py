"""Sends OpenTelemetry traces of turns, if a collector is set. They never contain what was said.

A turn is one span. Its stages are child spans that follow each other without a gap: listen,
endpoint, queue, encode, prefill, decode. They are computed after the turn, from the same metrics
that the client gets.
"""

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

# If the collector is slow or gone, at most so many spans wait; then the oldest are dropped.
MOST_SPANS_WAITING = 2048
EXPORT_TIMEOUT_S = 5.0
FLUSH_TIMEOUT_S = 5.0
STAGES = ("listen", "endpoint", "queue", "encode", "prefill", "decode")


class Tracing:
    """Makes spans of turns. Only `stop` waits; all other methods return at once."""

    def __init__(self, provider: "TracerProvider") -> None:
        # Imported only if tracing is on: the import is slow, and most workers do not trace.
        from opentelemetry import trace

        self._api = trace
        self._provider = provider
        self._tracer = provider.get_tracer("voxtral_worker")

    def answered(self, session: str, turn: Mapping[str, Any], now_ns: int) -> None:
        """Make the spans of a turn that has just been answered.

        `turn` has the fields of its `text_response`; `now_ns` is Unix time. `session` is the
        session's mark as in the log and not its id, because the id may be all that opens it.
        """
        metrics = turn["metrics"]
        attributes = {
            **_names(session, turn["turn_id"]),
            "voxtral.source": turn["source"],
            "voxtral.finish_reason": turn["finish_reason"],
            "voxtral.prompt_tokens": turn["usage"]["prompt_tokens"],
            "voxtral.tokens": metrics["tokens"],
            "voxtral.cached_tokens": metrics["cached_tokens"],
            "voxtral.speculative": metrics["speculative"],
        }
        stages = _stages_ns(metrics)
        start_ns = now_ns - sum(stages.values())
        span = self._tracer.start_span("turn", attributes=attributes, start_time=start_ns)
        within = self._api.set_span_in_context(span)
        for name, length_ns in stages.items():
            if length_ns:
                stage = self._tracer.start_span(name, within, start_time=start_ns)
                start_ns += length_ns
                stage.end(start_ns)
        span.end(now_ns)

    def failed(self, session: str, turn_id: str, code: str, waited_s: float, now_ns: int) -> None:
        """Make the span of a turn that has just failed, `waited_s` after the user's turn ended."""
        start_ns = now_ns - int(waited_s * 1e9)
        span = self._tracer.start_span(
            "turn", attributes=_names(session, turn_id), start_time=start_ns
        )
        span.set_status(self._api.Status(self._api.StatusCode.ERROR, code))
        span.end(now_ns)

    def stop(self, timeout_s: float = FLUSH_TIMEOUT_S) -> None:
        """Export the spans that wait, for at most `timeout_s`. Those that are left are lost."""
        # The library itself would wait 30 s. A worker that stops does not have that time.
        flush = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        flush.start()
        flush.join(timeout_s)


def _names(session: str, turn_id: str) -> dict[str, str]:
    return {"session.id": session, "voxtral.turn_id": turn_id}


def _stages_ns(metrics: Mapping[str, Any]) -> dict[str, int]:
    """The length of each stage in ns. `listen` is the length of the speech without its pauses."""
    decode_ms = metrics["total_ms"] - metrics["endpoint_ms"] - metrics["first_token_ms"]
    lengths_ms = {"listen": metrics["speech_ms"], "decode": max(0.0, decode_ms)}
    return {
        name: int(1e6 * lengths_ms.get(name, metrics.get(f"{name}_ms", 0.0))) for name in STAGES
    }


def open_tracing(collector: str | None, service_name: str) -> Tracing | None:
    """Tracing to a collector. Without its address: None, and nothing is imported."""
    if collector is None:
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = OTLPSpanExporter(collector.rstrip("/") + "/v1/traces", timeout=EXPORT_TIMEOUT_S)
    resource = Resource.create({"service.name": service_name})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter, MOST_SPANS_WAITING))
    return Tracing(provider)
