"""All Prometheus instruments of the worker, with their buckets.

The streaming API's document fixes the names of the first three, which have no labels.
"""

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

# Without the `_created` series, which double the output and are not used.
disable_created_metrics()  # type: ignore[no-untyped-call]

# Finest between 100 and 350 ms, around the latency goal of 250 ms.
_LATENCY_BUCKETS_S = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip

connections_total = Counter("websocket_connections_total", "Total WebSocket connections")
connections_active = Gauge("websocket_connections_active", "Active WebSocket connections")
audio_processing = Histogram(
    "audio_processing_duration_seconds", "Audio processing time", buckets=_LATENCY_BUCKETS_S
)

sessions_active = Gauge("voxtral_sessions_active", "Sessions that exist")
sessions_taken_over = Counter(
    "voxtral_sessions_taken_over_total", "Sessions taken over from another worker"
)
sessions_total = Counter("voxtral_sessions_total", "Sessions created")
capacity_sessions = Gauge(
    "voxtral_capacity_sessions", "Sessions that may talk at once, as measured at the start"
)
sessions_talking = Gauge("voxtral_sessions_talking", "Sessions that talk, of that capacity")
latency_goal = Gauge(
    "voxtral_latency_goal_seconds", "Goal for the end of a turn to its first delta; 0: none"
)
turns_total = Counter("voxtral_turns_total", "Turns answered", ["source", "finish_reason"])
turns_without_speech = Counter(
    "voxtral_turns_without_speech_total", "Turns found to hold no speech"
)
messages_received = Counter("voxtral_messages_received_total", "Frames received from clients")
errors_sent = Counter("voxtral_errors_total", "Errors sent to callers", ["code"])
refusals = Counter("voxtral_refusals_total", "Calls refused", ["code"])
audio_bytes = Counter("voxtral_audio_bytes_total", "Audio bytes accepted")
redis_failures = Counter(
    "voxtral_redis_failures_total", "Calls that a shared Redis did not answer", ["use"]
)
task_failures = Counter("voxtral_task_failures_total", "Failures of background tasks", ["task"])
files_decoded = Counter(
    "voxtral_files_decoded_total", "Audio files given to the decoder", ["outcome"]
)
log_lines_dropped = Counter(
    "voxtral_log_lines_dropped_total", "Log lines dropped because the log was not read fast enough"
)
connections_refused = Counter(
    "voxtral_connections_refused_total", "Connections closed before a request", ["reason"]
)
slow_clients = Counter(
    "voxtral_slow_clients_total", "Connections closed because their clients did not read them"
)

stage_seconds = Histogram(
    "voxtral_turn_stage_seconds", "Time of a stage of a turn", ["stage"], buckets=_LATENCY_BUCKETS_S
)
generations_running = Gauge("voxtral_generations_running", "Responses being made")
generations_waiting = Gauge("voxtral_generations_waiting", "Requests that wait for the engine")
cancel_seconds = Histogram(
    "voxtral_cancel_seconds",
    "Time from a cancel until the sequence has left the batch",
    buckets=(0.001, 0.0025, *_LATENCY_BUCKETS_S),
)
tokens_generated = Counter("voxtral_tokens_generated_total", "Tokens made")
tokens_prefilled = Counter("voxtral_tokens_prefilled_total", "Prompt tokens computed")
tokens_cached = Counter("voxtral_tokens_cached_total", "Prompt tokens found in the KV cache")
speculations = Counter(
    "voxtral_speculations_total", "Turns whose answer was begun before they were over", ["outcome"]
)
tokens_discarded = Counter(
    "voxtral_speculation_discarded_tokens_total",
    "Tokens computed for speculations that were discarded",
)
runaways = Counter("voxtral_runaway_responses_total", "Responses ended for repeating themselves")
kv_blocks = Gauge("voxtral_kv_blocks", "Blocks of KV cache", ["state"])
device_bytes = Gauge("voxtral_device_bytes", "Memory of the engine's device", ["use"])
generations_put_back = Counter(
    "voxtral_generations_put_back_total", "Jobs and partial transcripts that gave way to a turn"
)
embeddings_idle_bytes = Gauge(
    "voxtral_embeddings_idle_bytes", "Embeddings of audio that is in the KV cache or in a history"
)
embeddings_dropped = Counter(
    "voxtral_embeddings_dropped_total", "Pieces of audio whose embeddings were dropped"
)
session_bytes = Gauge("voxtral_session_bytes", "Memory that all sessions hold")
session_kv_bytes = Histogram(
    "voxtral_session_kv_bytes",
    "KV cache that a session keeps when a turn is over",
    buckets=[float(1 << power) for power in range(16, 33)],
)
engine_failures = Counter("voxtral_engine_failures_total", "Generations failed by the engine")
fallbacks = Counter(
    "voxtral_fallbacks_total", "Faster ways of the engine that failed and are not used", ["what"]
)
response_cache_hits = Counter("voxtral_response_cache_hits_total", "Answers from the cache")
response_cache_answers = Gauge("voxtral_response_cache_answers", "Answers in the cache")
vad_frames = Counter("voxtral_vad_frames_total", "Frames the VAD heard")
turn_scores = Counter(
    "voxtral_turn_scores_total", "Pauses scored for how complete their words sound", ["outcome"]
)
turn_score_seconds = Histogram(
    "voxtral_turn_score_seconds",
    "Time from a pause until its score",
    buckets=(0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 1.0),
)
turns_reopened = Counter(
    "voxtral_turns_reopened_total", "Turns that continued after they had ended"
)
event_loop_lag = Histogram(
    "voxtral_event_loop_lag_seconds",
    "How late the server's event loop is",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
event_loop_tasks = Gauge("voxtral_event_loop_tasks", "Tasks of the server's event loop")
tool_calls = Counter("voxtral_tool_calls_total", "Calls of tools", ["outcome"])
speech_seconds = Counter("voxtral_speech_seconds_total", "Seconds of speech made")
speech_failures = Counter("voxtral_speech_failures_total", "Sentences that were not spoken")
speech_restarts = Counter("voxtral_speech_restarts_total", "Losses of the voice's process")
jobs_total = Counter("voxtral_jobs_total", "RunPod jobs", ["type", "outcome"])

EXPOSITION_TYPE = CONTENT_TYPE_LATEST


def exposition() -> bytes:
    """All instruments in Prometheus' text format."""
    return generate_latest(REGISTRY)
