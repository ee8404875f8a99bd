"""Environment variables become one frozen `Settings`; nobody else reads or sets them.

A value that cannot be used stops the start with one message that names every bad variable,
what it was and what it may be.
"""

import dataclasses
import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

REPOSITORY = Path(__file__).resolve().parents[2]
# A folder of the installed package, and a link in a checkout.
EMBEDDED_MODEL = (Path(__file__).parent / "voxtral-tiny").resolve()
RELEASED_MODEL = "mistralai/Voxtral-Mini-3B-2507"
# As the embedded model; an installation may lack it.
TURN_MODEL = Path(__file__).parent.resolve() / "smart-turn" / "smart-turn-v3.2-cpu.onnx"

# What SPEECH may be beside an address.
NO_VOICE, EMBEDDED_VOICE = "off", "embedded"

# Characters of a secret: what is shorter can be guessed.
LEAST_SECRET = 16

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# Shared address space (RFC 6598): RunPod's proxy reaches a pod from it. No stranger can send
# from there, as the internet does not route it.
RUNPOD_PROXIES: tuple[Network, ...] = (ipaddress.ip_network("100.64.0.0/10"),)


class SettingsError(Exception):
    """One or more variables cannot be used; the message names each of them."""


@dataclass(frozen=True)
class Kind:
    """How the text of a variable is read, and what it may be in words.

    `allowed` completes "it must be …"; `type` and `range` are two columns of docs/configuration.md.
    """

    read: Callable[[str], Any]
    allowed: str
    type: str
    range: str = ""


def _read_bool(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "on": True}
    values |= {"false": False, "0": False, "no": False, "off": False}
    return values[text.lower()]


def _whole(low: int, high: int) -> Kind:
    def read(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return Kind(read, f"a whole number from {low} to {high}", "integer", f"{low} to {high}")


def _number(low: float, high: float) -> Kind:
    def read(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return Kind(read, f"a number from {low:g} to {high:g}", "number", f"{low:g} to {high:g}")


def _one_of(*choices: str) -> Kind:
    def read(text: str) -> str:
        by_lower = {choice.lower(): choice for choice in choices}
        return by_lower[text.lower()]

    return Kind(read, "one of " + ", ".join(choices), "choice", ", ".join(choices))


def _read_list(text: str) -> tuple[str, ...]:
    items = tuple(item.strip() for item in text.split(",") if item.strip())
    if not items:
        # Commas alone: were this no list at all, it would open what it was to guard.
        raise ValueError(text)
    return items


def _read_secret(text: str) -> str:
    if len(text) < LEAST_SECRET:
        raise ValueError
    return text


def _read_keys(text: str) -> tuple[str, ...]:
    keys = tuple(_read_secret(key) for key in _read_list(text))
    if not text.isascii():
        # No header can carry it.
        raise ValueError
    return keys


def _read_networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(item, strict=False) for item in _read_list(text))


def _read_redis_url(text: str) -> str:
    url = urlsplit(text)
    is_plain = not url.query and not url.fragment
    if url.scheme not in ("redis", "rediss") or not url.hostname or url.port == 0 or not is_plain:
        raise ValueError(text)
    if url.path not in ("", "/"):
        int(url.path[1:], 10)
    return text


def _read_file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise ValueError(text)
    return path


def _read_speech(text: str) -> str:
    if text.lower() in (NO_VOICE, EMBEDDED_VOICE):
        return text.lower()
    parts = urlsplit(_read_address(text))
    if not parts.path.rstrip("/").endswith("/v1") or parts.query or parts.fragment:
        raise ValueError(text)
    return text.rstrip("/")


def _read_address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(text)
    return text


TEXT = Kind(str, "a text", "string")
ADDRESS = Kind(_read_address, "an http or https address", "URL", "http or https")
BOOL = Kind(_read_bool, "true or false", "boolean", "true, false")
LIST = Kind(_read_list, "a comma-separated list", "list of strings", "separated by commas")
SECRET = Kind(
    _read_secret,
    f"a text of at least {LEAST_SECRET} characters; `openssl rand -hex 32` makes a good one",
    "string",
    f"at least {LEAST_SECRET} characters",
)
KEYS = Kind(
    _read_keys,
    f"a comma-separated list of keys, each of at least {LEAST_SECRET} ASCII characters; "
    "`openssl rand -hex 32` makes a good one",
    "list of strings",
    f"separated by commas, each at least {LEAST_SECRET} ASCII characters",
)
NETWORKS = Kind(
    _read_networks,
    "a comma-separated list of addresses or CIDR networks",
    "list of networks",
    "addresses or CIDR networks, separated by commas",
)
FILE = Kind(_read_file, "the path of a file that exists", "path", "a file that exists")
REDIS_URL = Kind(
    _read_redis_url,
    "a URL like redis://[user:password@]host[:port][/number]",
    "URL",
    "`redis://[user:password@]host[:port][/number]`, or `rediss://` for TLS",
)
SPEECH = Kind(
    _read_speech,
    "off, embedded, or the http(s) address of an OpenAI-compatible speech server, up to its /v1",
    "choice or URL",
    "off, embedded, or `http(s)://…/v1`",
)
PORT_NUMBER = _whole(1, 65535)


def _setting(kind: Kind, default: Any, doc: str, *, is_secret: bool = False) -> Any:
    metadata = {"kind": kind, "doc": doc, "is_secret": is_secret}
    return dataclasses.field(default=default, metadata=metadata, repr=not is_secret)


@dataclass(frozen=True)
class Settings:
    """Every setting of the worker; a field `max_sessions` is the variable `MAX_SESSIONS`."""

    host: str = _setting(TEXT, "0.0.0.0", "Address the server listens on.")
    port: int = _setting(PORT_NUMBER, 8000, "Port of REST and WebSocket.")
    port_health: int | None = _setting(
        PORT_NUMBER, None, "A second port that answers `GET /ping` only; unset: none."
    )
    model_id: str | None = _setting(
        TEXT,
        None,
        "Hub id or local folder; unset: the released model on RunPod or with CUDA, "
        "the embedded one elsewhere.",
    )
    model_aliases: tuple[str, ...] = _setting(
        LIST,
        (),
        "Further names by which OpenAI's clients may ask for the model, as "
        "`gpt-realtime,whisper-1`; `*`: any name.",
    )
    model_revision: str | None = _setting(TEXT, None, "Revision of a hub model.")
    device: str = _setting(_one_of("auto", "cpu", "cuda"), "auto", "Where the model runs.")
    dtype: str = _setting(
        _one_of("auto", "float32", "bfloat16", "float16"),
        "auto",
        "Number format of the weights; auto: bfloat16 on CUDA, float32 on a CPU.",
    )
    enable_torch_compile: bool = _setting(
        BOOL, False, "Compile the audio encoder with `torch.compile` (CUDA only)."
    )
    max_sessions: int = _setting(_whole(1, 100_000), 50, "Sessions that may exist at once.")
    latency_goal_ms: int | None = _setting(
        _whole(0, 60_000),
        None,
        "Goal for the end of a turn to its first delta, for 95 % of turns: more sessions than can "
        "keep it, as measured at the start, are refused. 0: none; unset: 250 on a GPU, else none.",
    )
    max_batch_size: int = _setting(_whole(1, 1024), 32, "Responses made side by side.")
    max_context_tokens: int | None = _setting(
        _whole(512, 1_000_000), None, "Longest prompt plus response; unset: what the model allows."
    )
    window_tail: str | None = _setting(
        _one_of("exact", "sampled"),
        None,
        "What is computed of the silence that fills a 30 s window: all of it, or the sound and a "
        "weighted sample (faster, and not numerically the same; see docs/window-tail.md); unset: "
        "`sampled` for the embedded model, else `exact`.",
    )
    gpu_memory_fraction: float = _setting(
        _number(0.1, 1.0), 0.9, "Share of the GPU's memory the worker may take."
    )
    response_cache_size: int = _setting(
        _whole(0, 1_000_000),
        256,
        "Answers that are cached, for equal input at temperature 0 or with a seed; 0: off.",
    )
    embeddings_cache_bytes: int = _setting(
        _whole(0, 1 << 40),
        2 << 30,
        "Host memory for embeddings of audio that conversations hold; beyond it the longest idle "
        "are dropped and computed again when they are needed.",
    )
    max_session_bytes: int = _setting(
        _whole(8 << 20, 1 << 40),
        64 << 20,
        "Bytes of memory that a session may use for texts, audio, history and messages kept for a "
        "resume. A second of speech uses 64,000, in the history 32,000. Larger input is refused.",
    )
    session_idle_timeout_seconds: float = _setting(
        _number(0.1, 86_400), 300.0, "Seconds without activity after which a session ends."
    )
    heartbeat_interval_seconds: float = _setting(
        _number(0.1, 90), 15.0, "Seconds between two heartbeats of a connection."
    )
    max_connections: int | None = _setting(
        _whole(1, 1_000_000),
        None,
        "Connections that may be open at once; unset: half of the file descriptors that the "
        "process may have, less 64, but at least 32.",
    )
    max_connections_per_address: int = _setting(
        _whole(1, 1_000_000),
        100,
        "Connections that an address may have open at once; those of trusted proxies and of this "
        "machine do not count.",
    )
    max_sessions_per_address: int | None = _setting(
        _whole(1, 100_000),
        None,
        "Sessions that an address, or the subject of a JWT, may have at once; unset: a fifth of "
        "`MAX_SESSIONS`, but at least 5. Those of this machine and of jobs do not count.",
    )
    drain_timeout_seconds: float = _setting(
        _number(0, 3600), 30.0, "Seconds that work in flight has to finish after SIGTERM."
    )
    rate_limit_enabled: bool = _setting(
        BOOL, True, "Enforce the `RATE_LIMIT_…` settings and `MAX_SESSIONS_PER_ADDRESS`."
    )
    rate_limit_connections_per_minute: int = _setting(
        _whole(1, 1_000_000), 10, "WebSocket connections per minute and address."
    )
    rate_limit_sessions_per_minute: int = _setting(
        _whole(1, 1_000_000), 5, "Sessions created per minute and address."
    )
    rate_limit_audio_bytes_per_second: int = _setting(
        _whole(1, 1_000_000_000), 1_000_000, "Audio bytes per second and session."
    )
    rate_limit_text_per_minute: int = _setting(
        _whole(1, 1_000_000),
        60,
        "Text messages per minute and session, and REST calls of OpenAI's per minute and address.",
    )
    rate_limit_store: str | None = _setting(
        REDIS_URL,
        None,
        "A Redis in which several workers count the calls of an address together; "
        "unset: each counts in its memory.",
        is_secret=True,
    )
    session_store: str | None = _setting(
        REDIS_URL,
        None,
        "A Redis that holds each session's config and texts, so that its client can continue at "
        "another worker; unset: they are in this worker's memory alone.",
        is_secret=True,
    )
    api_keys: tuple[str, ...] = _setting(
        KEYS,
        (),
        "Keys that open the API. Without a key and a JWT setting, anyone may use it.",
        is_secret=True,
    )
    jwt_secret: str | None = _setting(
        SECRET, None, "Secret of HS256 tokens that open the API.", is_secret=True
    )
    jwt_public_key: str | None = _setting(
        TEXT, None, "PEM text of the key that checks RS256 or ES256 tokens.", is_secret=True
    )
    token_secret: str | None = _setting(
        SECRET,
        None,
        "Secret by which session tokens are signed; unset: one made of `JWT_SECRET`, or else of "
        "`API_KEYS`. Workers that share sessions need the same.",
        is_secret=True,
    )
    jwt_audience: str | None = _setting(TEXT, None, "Audience a token must name.")
    allowed_origins: tuple[str, ...] = _setting(
        LIST, ("*",), "Origins of pages that may use the API; `*`: all."
    )
    allowed_ips: tuple[Network, ...] = _setting(
        NETWORKS, (), "Addresses or networks that may use the API; unset: all."
    )
    trusted_proxies: tuple[Network, ...] = _setting(
        NETWORKS,
        (),
        "Proxies whose headers may name the client's address. Unset on RunPod: 100.64.0.0/10, "
        "the platform's proxy, for `CF-Connecting-IP` alone.",
    )
    metrics_public: bool = _setting(BOOL, False, "Serve `/metrics` without credentials.")
    tls_cert_file: Path | None = _setting(FILE, None, "Certificate chain, PEM; turns on TLS.")
    tls_key_file: Path | None = _setting(FILE, None, "Private key of the certificate, PEM.")
    max_turn_seconds: float = _setting(
        _number(30, 1800),
        300.0,
        "Longest turn in seconds; a longer one is split at a quiet place near this limit.",
    )
    speculation: bool = _setting(
        BOOL,
        True,
        "Start work on a turn in the pause that may end it; the answer waits for the turn's end.",
    )
    turn_model: Path | None = _setting(
        FILE,
        None,
        "Network that says how complete the words before a pause sound, for `turn_detection` "
        "`semantic`: an ONNX file with the input and output of Smart Turn v3; unset: the one that "
        "comes with the worker.",
    )
    speech: str | None = _setting(
        SPEECH,
        None,
        "What speaks the answers: nothing, the voice that comes with the worker (English), or a "
        "speech server; unset: `embedded` where its package is installed, else `off`.",
    )
    speech_model: str | None = _setting(
        TEXT, None, "Model that the speech server is asked for; unset: tts-1."
    )
    speech_voice: str | None = _setting(
        TEXT,
        None,
        "What the voice `default` means; unset: the embedded one, or `alloy` of a speech server.",
    )
    speech_api_key: str | None = _setting(TEXT, None, "Key of the speech server.", is_secret=True)
    log_level: str = _setting(
        _one_of("DEBUG", "INFO", "WARNING", "ERROR"), "INFO", "Least severe line that is logged."
    )
    log_format: str = _setting(_one_of("text", "json"), "text", "Form of the log lines.")
    otel_exporter_otlp_endpoint: str | None = _setting(
        ADDRESS, None, "OpenTelemetry collector (OTLP over HTTP) for traces of turns; unset: none."
    )
    otel_service_name: str = _setting(TEXT, "voxtral-worker", "Name of the worker in traces.")

    runpod_pod_id: str | None = _setting(TEXT, None, "Set by RunPod.")
    runpod_webhook_get_job: str | None = _setting(TEXT, None, "Set by RunPod on queue workers.")
    runpod_public_ip: str | None = _setting(
        TEXT, None, "Set by RunPod where the pod has a public address."
    )
    runpod_tcp_port: int | None = _setting(
        PORT_NUMBER, None, "Public number of `PORT`; RunPod sets it as `RUNPOD_TCP_PORT_<PORT>`."
    )

    @property
    def runs_on_runpod(self) -> bool:
        """Whether this process was started by RunPod."""
        return self.runpod_pod_id is not None

    @property
    def is_queue_worker(self) -> bool:
        """Whether RunPod gives this process jobs to take."""
        return self.runpod_webhook_get_job is not None

    @property
    def needs_credentials(self) -> bool:
        """Whether calls must carry an API key, a JWT or a session token."""
        return bool(self.api_keys or self.jwt_secret or self.jwt_public_key)


def near_misses(environment: Mapping[str, str] | None = None) -> list[str]:
    """One sentence for each variable that is nearly, but not quite, one of ours.

    A variable that is misspelled has no effect, which nobody would notice otherwise.
    """
    variables = os.environ if environment is None else environment
    ours = [variable_of(field) for field in dataclasses.fields(Settings)]
    return [
        f"{name} is no setting of this worker; {near} is meant perhaps"
        for name in sorted(set(variables) - set(ours))
        for near in ours
        # Short names are near to too many others.
        if len(near) > 5 and _is_near(name.upper(), near, 1 if len(near) < 9 else 2)
    ]


def _is_near(one: str, other: str, most: int) -> bool:
    """Whether at most `most` letters must be put in, taken out or changed (Levenshtein, 1966)."""
    if abs(len(one) - len(other)) > most:
        return False
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, wanted in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != wanted))
    return row[-1] <= most


def opt_out_of_telemetry() -> None:
    """Tell libraries that report to their makers not to; only before they are imported.

    ONNX Runtime would keep a file that names the machine, and call home.
    """
    for name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "1")


def variable_of(field: "dataclasses.Field[Any]") -> str:
    """Name of the environment variable that sets a field."""
    return field.name.upper()


def read_settings(
    environment: Mapping[str, str] | None = None, options: Mapping[str, str] | None = None
) -> Settings:
    """Settings from the given environment, or from the process's own.

    `options` go before it, under the names of its variables. An empty variable counts as unset,
    as Docker and RunPod templates leave it.
    Raises SettingsError that names every variable that cannot be used.
    """
    variables = {**(os.environ if environment is None else environment), **(options or {})}
    port = variables.get("PORT", "").strip() or str(Settings.port)
    public_port = variables.get(f"RUNPOD_TCP_PORT_{port}", "")
    variables = {"RUNPOD_TCP_PORT": public_port, **variables}
    values: dict[str, Any] = {}
    problems: list[str] = []
    for field in dataclasses.fields(Settings):
        name = variable_of(field)
        text = variables.get(name, "").strip()
        if not text:
            continue
        kind: Kind = field.metadata["kind"]
        try:
            values[field.name] = kind.read(text)
        except (ValueError, KeyError, OSError):
            # The text of a private key may stand where its path belongs.
            is_secret = field.metadata["is_secret"] or "-----BEGIN" in text
            shown = "(not shown)" if is_secret else repr(text)
            problems.append(f"{name} is {shown}, but must be {kind.allowed}")
    if ("tls_cert_file" in values) != ("tls_key_file" in values):
        problems.append("TLS_CERT_FILE and TLS_KEY_FILE go together, but only one is set")
    if problems:
        raise SettingsError("cannot start: " + "; ".join(problems))
    return Settings(**values)
