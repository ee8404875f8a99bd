"""Traces of turns by OpenTelemetry, where a collector is named: when, how much, never what.

A turn is one span; its stages are its children and follow each other without a gap:
listen, endpoint, queue, encode, prefill, decode. They are made of the metrics that the client
is told, once the turn is over.
"""

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from voxtral_worker.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

# More than these wait only when the collector is slow or gone; the oldest are then dropped.
MOST_SPANS_WAITING = 2048
EXPORT_TIMEOUT_S = 5.0
FLUSH_TIMEOUT_S = 5.0
STAGES = ("listen", "endpoint", "queue", "encode", "prefill", "decode")


class Tracing:
    """Turns in, spans out; its methods never wait, but for `stop`."""

    def __init__(self, provider: "TracerProvider") -> None:
        # Takes a while to import, for what is off almost everywhere.
        from opentelemetry import trace

        self._api = trace
        self._provider = provider
        self._tracer = provider.get_tracer("voxtral_worker")

    def answered(self, session: str, turn: Mapping[str, Any], now_ns: int) -> None:
        """A turn has just been answered; `turn` is its `text_response`, `now_ns` Unix time.

        `session` is how the log names it, not its id: that may be all that opens it.
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
        """A turn has just failed, so long after it was over."""
        start_ns = now_ns - int(waited_s * 1e9)
        span = self._tracer.start_span(
            "turn", attributes=_names(session, turn_id), start_time=start_ns
        )
        span.set_status(self._api.Status(self._api.StatusCode.ERROR, code))
        span.end(now_ns)

    def stop(self, timeout_s: float = FLUSH_TIMEOUT_S) -> None:
        """Export what waits; what is not taken in time is lost."""
        # The library's own limit is half a minute, which a worker that stops does not have.
        flush = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        flush.start()
        flush.join(timeout_s)


def _names(session: str, turn_id: str) -> dict[str, str]:
    return {"session.id": session, "voxtral.turn_id": turn_id}


def _stages_ns(metrics: Mapping[str, Any]) -> dict[str, int]:
    """Length of each stage. `listen` is as long as the speech, without its pauses."""
    decode_ms = metrics["total_ms"] - metrics["endpoint_ms"] - metrics["first_token_ms"]
    lengths_ms = {"listen": metrics["speech_ms"], "decode": max(0.0, decode_ms)}
    return {
        name: int(1e6 * lengths_ms.get(name, metrics.get(f"{name}_ms", 0.0))) for name in STAGES
    }


def open_tracing(settings: Settings) -> Tracing | None:
    """Tracing to the collector of the settings; None, and nothing imported, without one."""
    if settings.otel_exporter_otlp_endpoint is None:
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = OTLPSpanExporter(
        settings.otel_exporter_otlp_endpoint.rstrip("/") + "/v1/traces", timeout=EXPORT_TIMEOUT_S
    )
    resource = Resource.create({"service.name": settings.otel_service_name})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter, MOST_SPANS_WAITING))
    return Tracing(provider)
