"""Environment variables become one frozen `Settings`; no other module reads or sets them.

The type of a field says what its variable may be. A value that cannot be used stops the start with
one message that names every bad variable, what it was and what it may be.
"""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, ValidationError
from pydantic_core import core_schema
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from voxtral_worker.values.may import Flag, May, number, one_of, whole

REPOSITORY = Path(__file__).resolve().parents[2]
# A folder of the installed package, and a link in a checkout.
EMBEDDED_MODEL = (Path(__file__).parent / "voxtral-tiny").resolve()
RELEASED_MODEL = "mistralai/Voxtral-Mini-3B-2507"
# Like the embedded model, a folder or a link. An installation may lack it.
TURN_MODEL = Path(__file__).parent.resolve() / "smart-turn" / "smart-turn-v3.2-cpu.onnx"

# What SPEECH may be instead of an address.
NO_VOICE, EMBEDDED_VOICE = "off", "embedded"

# Characters of a secret: a shorter one can be guessed.
LEAST_SECRET = 16

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# Shared address space (RFC 6598): RunPod's proxy reaches a pod from it. No stranger can send
# from there, as the internet does not route it.
RUNPOD_PROXIES: tuple[Network, ...] = (ipaddress.ip_network("100.64.0.0/10"),)


class SettingsError(Exception):
    """One or more variables cannot be used.

    `problems`: what is wrong, by the variable's name, which begins the sentence.
    """

    def __init__(self, problems: Mapping[str, str]) -> None:
        sentences = "; ".join(f"{name} {problem}" for name, problem in problems.items())
        super().__init__(f"cannot start: {sentences}")
        self.problems = problems


def _choice(*choices: str) -> May:
    """One of some words, in any case."""
    by_lower = {choice.lower(): choice for choice in choices}
    schema = core_schema.no_info_before_validator_function(
        lambda text: by_lower.get(text.lower(), text), core_schema.literal_schema([*choices])
    )
    return May(one_of(*choices), schema)


def _split(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    items = tuple(item.strip() for item in value.split(",") if item.strip())
    if not items:
        # An empty list would allow everything, so commas alone are an error.
        raise ValueError
    return items


def _networks(value: Any) -> tuple[Network, ...]:
    # Not strict: 10.0.0.1/8 may stand for 10.0.0.0/8.
    return tuple(ipaddress.ip_network(item, strict=False) for item in _split(value))


def _redis_url(text: str) -> str:
    url = urlsplit(text)
    is_plain = not url.query and not url.fragment
    if url.scheme not in ("redis", "rediss") or not url.hostname or url.port == 0 or not is_plain:
        raise ValueError
    if url.path not in ("", "/"):
        int(url.path[1:], 10)
    return text


def _file(path: Path) -> Path:
    # Unlike `Path.is_file`, this is False for a text that is too long to be a path.
    if not os.path.isfile(path):
        raise ValueError
    return path


def _address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError
    return text


def _speech(text: str) -> str:
    if text.lower() in (NO_VOICE, EMBEDDED_VOICE):
        return text.lower()
    parts = urlsplit(_address(text))
    if not parts.path.rstrip("/").endswith("/v1") or parts.query or parts.fragment:
        raise ValueError
    return text.rstrip("/")


# The types of the fields.
Text: TypeAlias = Annotated[str, May("a text")]
Port: TypeAlias = Annotated[int, whole(1, 65535)]
Address: TypeAlias = Annotated[str, AfterValidator(_address), May("an http or https address")]
Texts: TypeAlias = Annotated[
    tuple[str, ...], BeforeValidator(_split), May("a comma-separated list")
]
Secret: TypeAlias = Annotated[
    str,
    StringConstraints(min_length=LEAST_SECRET),
    May(f"a text of at least {LEAST_SECRET} characters; `openssl rand -hex 32` makes a good one"),
]
Keys: TypeAlias = Annotated[
    # No header can carry other characters than ASCII.
    tuple[Annotated[str, StringConstraints(pattern=rf"^[[:ascii:]]{{{LEAST_SECRET},}}$")], ...],
    BeforeValidator(_split),
    May(
        f"a comma-separated list of keys, each of at least {LEAST_SECRET} ASCII characters; "
        "`openssl rand -hex 32` makes a good one"
    ),
]
Networks: TypeAlias = Annotated[
    tuple[Network, ...],
    BeforeValidator(_networks),
    May("a comma-separated list of addresses or CIDR networks"),
]
File: TypeAlias = Annotated[Path, AfterValidator(_file), May("the path of a file that exists")]
RedisUrl: TypeAlias = Annotated[
    str,
    AfterValidator(_redis_url),
    May("a URL like `redis://[user:password@]host[:port][/number]`, or `rediss://` for TLS"),
]
Speech: TypeAlias = Annotated[
    str,
    AfterValidator(_speech),
    May(
        "off, embedded, or the http(s) address of an OpenAI-compatible speech server, up to its /v1"
    ),
]


class Settings(BaseSettings):
    """Every setting of the worker; a field `max_sessions` is the variable `MAX_SESSIONS`.

    The text below a field is its row in docs/configuration.md.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        alias_generator=str.upper,
        validate_by_name=True,
        case_sensitive=True,
        # Lists are separated by commas; they are not JSON.
        enable_decoding=False,
        hide_input_in_errors=True,
    )

    host: Text = "0.0.0.0"
    """Address the server listens on."""
    port: Port = 8000
    """Port of REST and WebSocket."""
    port_health: Port | None = None
    """A second port that answers `GET /ping` only; unset: none."""
    model_id: Text | None = None
    """Hub id or local folder; unset: the released model on RunPod or with CUDA, the embedded one
    elsewhere."""
    model_aliases: Texts = ()
    """Further names by which OpenAI's clients may ask for the model, as `gpt-realtime,whisper-1`;
    `*`: any name."""
    model_revision: Text | None = None
    """Revision of a hub model."""
    device: Annotated[str, _choice("auto", "cpu", "cuda")] = "auto"
    """Where the model runs."""
    dtype: Annotated[str, _choice("auto", "float32", "bfloat16", "float16")] = "auto"
    """Number format of the weights; auto: bfloat16 on CUDA, float32 on a CPU."""
    enable_torch_compile: Flag = False
    """Compile the audio encoder with `torch.compile` (CUDA only)."""
    max_sessions: Annotated[int, whole(1, 100_000)] = 50
    """Sessions that may exist at once."""
    latency_goal_ms: Annotated[int, whole(0, 60_000)] | None = None
    """Goal for the end of a turn to its first delta, for 95 % of turns: more sessions than can keep
    it, as measured at the start, are refused. 0: none; unset: 250 on a GPU, else none."""
    max_batch_size: Annotated[int, whole(1, 1024)] = 32
    """Responses made side by side."""
    max_context_tokens: Annotated[int, whole(512, 1_000_000)] | None = None
    """Longest prompt plus response; unset: what the model allows."""
    window_tail: Annotated[str, _choice("exact", "sampled")] | None = None
    """What is computed of the silence that fills a 30 s window: all of it, or the sound and a
    weighted sample (faster, and not numerically the same; see docs/window-tail.md); unset:
    `sampled` for the embedded model, else `exact`."""
    gpu_memory_fraction: Annotated[float, number(0.1, 1.0)] = 0.9
    """Share of the GPU's memory the worker may take."""
    response_cache_size: Annotated[int, whole(0, 1_000_000)] = 256
    """Answers that are cached, for equal input at temperature 0 or with a seed; 0: off."""
    embeddings_cache_bytes: Annotated[int, whole(0, 1 << 40)] = 2 << 30
    """Host memory for embeddings of audio that conversations hold; beyond it the longest idle are
    dropped and computed again when they are needed."""
    max_session_bytes: Annotated[int, whole(8 << 20, 1 << 40)] = 64 << 20
    """Bytes of memory that a session may use for texts, audio, history and messages kept for a
    resume. A second of speech uses 64,000, in the history 32,000. Larger input is refused."""
    session_idle_timeout_seconds: Annotated[float, number(0.1, 86_400)] = 300.0
    """Seconds without activity after which a session ends."""
    heartbeat_interval_seconds: Annotated[float, number(0.1, 90)] = 15.0
    """Seconds between two heartbeats of a connection."""
    max_connections: Annotated[int, whole(1, 1_000_000)] | None = None
    """Connections that may be open at once; unset: half of the file descriptors that the process
    may have, less 64, but at least 32."""
    max_connections_per_address: Annotated[int, whole(1, 1_000_000)] = 100
    """Connections that an address may have open at once; those of trusted proxies and of this
    machine do not count."""
    max_sessions_per_address: Annotated[int, whole(1, 100_000)] | None = None
    """Sessions that an address, or the subject of a JWT, may have at once; unset: a fifth of
    `MAX_SESSIONS`, but at least 5. Those of this machine and of jobs do not count."""
    drain_timeout_seconds: Annotated[float, number(0, 3600)] = 30.0
    """Seconds that work in flight has to finish after SIGTERM."""
    rate_limit_enabled: Flag = True
    """Enforce the `RATE_LIMIT_…` settings and `MAX_SESSIONS_PER_ADDRESS`."""
    rate_limit_connections_per_minute: Annotated[int, whole(1, 1_000_000)] = 10
    """WebSocket connections per minute and address."""
    rate_limit_sessions_per_minute: Annotated[int, whole(1, 1_000_000)] = 5
    """Sessions created per minute and address."""
    rate_limit_audio_bytes_per_second: Annotated[int, whole(1, 1_000_000_000)] = 1_000_000
    """Audio bytes per second and session."""
    rate_limit_text_per_minute: Annotated[int, whole(1, 1_000_000)] = 60
    """Text messages per minute and session, and REST calls of OpenAI's per minute and address."""
    rate_limit_store: RedisUrl | None = Field(default=None, repr=False)
    """A Redis in which several workers count the calls of an address together; unset: each counts
    in its memory."""
    session_store: RedisUrl | None = Field(default=None, repr=False)
    """A Redis that holds each session's config and texts, so that its client can continue at
    another worker; unset: they are in this worker's memory alone."""
    api_keys: Keys = Field(default=(), repr=False)
    """Keys that open the API. Without a key and a JWT setting, anyone may use it."""
    jwt_secret: Secret | None = Field(default=None, repr=False)
    """Secret of HS256 tokens that open the API."""
    jwt_public_key: Text | None = Field(default=None, repr=False)
    """PEM text of the key that checks RS256 or ES256 tokens."""
    token_secret: Secret | None = Field(default=None, repr=False)
    """Secret by which session tokens are signed; unset: one made of `JWT_SECRET`, or else of
    `API_KEYS`. Workers that share sessions need the same."""
    jwt_audience: Text | None = None
    """Audience a token must name."""
    allowed_origins: Texts = ("*",)
    """Origins of pages that may use the API; `*`: all."""
    allowed_ips: Networks = ()
    """Addresses or networks that may use the API; unset: all."""
    trusted_proxies: Networks = ()
    """Proxies whose headers may name the client's address. Unset on RunPod: 100.64.0.0/10, the
    platform's proxy, for `CF-Connecting-IP` alone."""
    metrics_public: Flag = False
    """Serve `/metrics` without credentials."""
    tls_cert_file: File | None = None
    """Certificate chain, PEM; turns on TLS."""
    tls_key_file: File | None = None
    """Private key of the certificate, PEM."""
    max_turn_seconds: Annotated[float, number(30, 1800)] = 300.0
    """Longest turn in seconds; a longer one is split at a quiet place near this limit."""
    speculation: Flag = True
    """Start work on a turn in the pause that may end it; the answer waits for the turn's end."""
    turn_model: File | None = None
    """Network that says how complete the words before a pause sound, for `turn_detection`
    `semantic`: an ONNX file with the input and output of Smart Turn v3; unset: the one that comes
    with the worker."""
    speech: Speech | None = None
    """What speaks the answers: nothing, the voice that comes with the worker (English), or a speech
    server; unset: `embedded` where its package is installed, else `off`."""
    speech_model: Text | None = None
    """Model that the speech server is asked for; unset: tts-1."""
    speech_voice: Text | None = None
    """What the voice `default` means; unset: the embedded one, or `alloy` of a speech server."""
    speech_api_key: Text | None = Field(default=None, repr=False)
    """Key of the speech server."""
    log_level: Annotated[str, _choice("DEBUG", "INFO", "WARNING", "ERROR")] = "INFO"
    """Least severe line that is logged."""
    log_format: Annotated[str, _choice("text", "json")] = "text"
    """Form of the log lines."""
    otel_exporter_otlp_endpoint: Address | None = None
    """OpenTelemetry collector (OTLP over HTTP) for traces of turns; unset: none."""
    otel_service_name: Text = "voxtral-worker"
    """Name of the worker in traces."""

    runpod_pod_id: Text | None = None
    """Set by RunPod."""
    runpod_webhook_get_job: Text | None = None
    """Set by RunPod on queue workers."""
    runpod_public_ip: Text | None = None
    """Set by RunPod where the pod has a public address."""
    runpod_tcp_port: Port | None = None
    """Public number of `PORT`; RunPod sets it as `RUNPOD_TCP_PORT_<PORT>`."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: Any, init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Values come from code alone: it is `read_settings` that reads the environment."""
        return (init_settings,)

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


VARIABLES = {name.upper(): field for name, field in Settings.model_fields.items()}


def near_misses(environment: Mapping[str, str] | None = None) -> list[str]:
    """One sentence for each variable whose name is nearly that of a setting.

    Otherwise a misspelled variable would have no effect, without a sign of it.
    """
    variables = os.environ if environment is None else environment
    return [
        f"{name} is no setting of this worker; {near} is meant perhaps"
        for name in sorted(set(variables) - set(VARIABLES))
        for near in VARIABLES
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
    """Keep libraries from reporting to their makers. Call it before they are imported.

    ONNX Runtime would keep a file that identifies the machine, and send reports about its use.
    """
    for name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "1")


def read_settings(
    environment: Mapping[str, str] | None = None, options: Mapping[str, str] | None = None
) -> Settings:
    """Settings from the given environment, or from the process's own.

    `options`: values by the names of variables; they override the environment. An empty variable
    counts as unset, because templates of Docker and RunPod leave variables empty.
    Raises SettingsError, which names every variable that cannot be used.
    """
    variables = {**(os.environ if environment is None else environment), **(options or {})}
    given = {name: text.strip() for name, text in variables.items() if text.strip()}
    port = given.get("PORT", VARIABLES["PORT"].default)
    if f"RUNPOD_TCP_PORT_{port}" in given:
        given.setdefault("RUNPOD_TCP_PORT", given[f"RUNPOD_TCP_PORT_{port}"])
    source = EnvSettingsSource(Settings)
    # The library would read `max_sessions` as well.
    source.env_vars = {name: text for name, text in given.items() if name in VARIABLES}
    problems: dict[str, str] = {}
    try:
        settings = Settings(**source())
    except ValidationError as error:
        for wrong in error.errors(include_url=False):
            name = str(wrong["loc"][0])
            problems[name] = f"is {_quoted(name, given[name])}, but must be {wrong['ctx']['words']}"
    if ("TLS_CERT_FILE" in given) != ("TLS_KEY_FILE" in given):
        problems["TLS_CERT_FILE and TLS_KEY_FILE"] = "go together, but only one is set"
    if problems:
        raise SettingsError(problems)
    return settings


def _quoted(name: str, text: str) -> str:
    # The text of a private key may stand where its path belongs.
    is_secret = not VARIABLES[name].repr or "-----BEGIN" in text
    return "(not shown)" if is_secret else repr(text)
