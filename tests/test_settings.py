import ipaddress
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.support.words import words_of
from voxtral_worker.settings import (
    VARIABLES,
    Settings,
    SettingsError,
    near_misses,
    read_settings,
)

# The shortest secret that may be one.
LONG = "sixteen-letters."
DOCUMENTED: dict[str, Any] = {
    "HOST": "0.0.0.0",
    "PORT": 8000,
    "MODEL_ID": None,
    "MODEL_REVISION": None,
    "MODEL_ALIASES": (),
    "DEVICE": "auto",
    "DTYPE": "auto",
    "ENABLE_TORCH_COMPILE": False,
    "MAX_SESSIONS": 50,
    "RESPONSE_CACHE_SIZE": 256,
    "SESSION_IDLE_TIMEOUT_SECONDS": 300,
    "HEARTBEAT_INTERVAL_SECONDS": 15,
    "DRAIN_TIMEOUT_SECONDS": 30,
    "RATE_LIMIT_ENABLED": True,
    "RATE_LIMIT_CONNECTIONS_PER_MINUTE": 10,
    "RATE_LIMIT_SESSIONS_PER_MINUTE": 5,
    "RATE_LIMIT_AUDIO_BYTES_PER_SECOND": 1_000_000,
    "RATE_LIMIT_TEXT_PER_MINUTE": 60,
    "API_KEYS": (),
    "SPEECH": None,
    "SPEECH_VOICE": None,
    "JWT_SECRET": None,
    "JWT_PUBLIC_KEY": None,
    "JWT_AUDIENCE": None,
    "TOKEN_SECRET": None,
    "MAX_SESSIONS_PER_ADDRESS": None,
    "ALLOWED_ORIGINS": ("*",),
    "ALLOWED_IPS": (),
    "TRUSTED_PROXIES": (),
    "METRICS_PUBLIC": False,
    "TLS_CERT_FILE": None,
    "TLS_KEY_FILE": None,
    "LOG_LEVEL": "INFO",
    "LOG_FORMAT": "text",
    "OTEL_EXPORTER_OTLP_ENDPOINT": None,
    "OTEL_SERVICE_NAME": "voxtral-worker",
    "PORT_HEALTH": None,
}
BAD: dict[str, list[str]] = {
    "PORT": ["http", "0", "65536", "80.5"],
    "PORT_HEALTH": ["-1"],
    "DEVICE": ["tpu"],
    "DTYPE": ["int8"],
    "ENABLE_TORCH_COMPILE": ["maybe"],
    "MAX_SESSIONS": ["0", "many", "9" * 5000],
    "MAX_BATCH_SIZE": ["0"],
    "MAX_CONTEXT_TOKENS": ["10"],
    "GPU_MEMORY_FRACTION": ["0", "1.5", "nan", "inf"],
    "RESPONSE_CACHE_SIZE": ["-1"],
    "SESSION_IDLE_TIMEOUT_SECONDS": ["0", "soon"],
    "HEARTBEAT_INTERVAL_SECONDS": ["0", "91"],
    "DRAIN_TIMEOUT_SECONDS": ["-1"],
    "RATE_LIMIT_ENABLED": ["2"],
    "RATE_LIMIT_TEXT_PER_MINUTE": ["0"],
    "ALLOWED_IPS": ["10.0.0.0/33", "home"],
    "TRUSTED_PROXIES": ["10.0.0.1, x"],
    "TLS_CERT_FILE": ["/no/such/file"],
    "TLS_KEY_FILE": ["/no/such/file"],
    "MAX_TURN_SECONDS": ["1"],
    "LOG_LEVEL": ["LOUD"],
    "LOG_FORMAT": ["xml"],
    "OTEL_EXPORTER_OTLP_ENDPOINT": ["collector:4317", "http://", "grpc://collector:4317"],
}


def value_of(settings: Settings, variable: str) -> Any:
    return getattr(settings, variable.lower())


def test_the_defaults_are_the_documented_ones() -> None:
    settings = read_settings({})
    assert {name: value_of(settings, name) for name in DOCUMENTED} == DOCUMENTED
    assert settings == Settings()


def test_empty_counts_as_unset() -> None:
    assert read_settings(dict.fromkeys(VARIABLES, "")) == Settings()
    assert read_settings(dict.fromkeys(VARIABLES, "  ")) == Settings()


def test_every_default_is_a_value_that_may_be_set() -> None:
    for name, field in VARIABLES.items():
        if field.default in (None, ()):
            continue
        text = ",".join(field.default) if isinstance(field.default, tuple) else str(field.default)
        assert value_of(read_settings({name: text}), name) == field.default


@pytest.mark.parametrize(("name", "text"), [(n, t) for n, texts in BAD.items() for t in texts])
def test_a_bad_variable_is_named_with_what_it_was_and_what_it_may_be(name: str, text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({name: text})
    assert f"{name} is {text!r}, but must be {words_of(VARIABLES[name])}" in str(refused.value)


def test_all_bad_variables_are_named_in_one_message_and_good_ones_are_not() -> None:
    bad = {name: texts[0] for name, texts in BAD.items()}
    with pytest.raises(SettingsError) as refused:
        read_settings({**bad, "HOST": "127.0.0.1", "UNKNOWN": "?"})
    message = str(refused.value)
    assert all(name in message for name in bad)
    assert "HOST" not in message
    assert "UNKNOWN" not in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["true", "TRUE", "1", "yes", "on"])
def test_words_for_true_turn_a_switch_on(text: str) -> None:
    assert read_settings({"METRICS_PUBLIC": text}).metrics_public


@pytest.mark.parametrize("text", ["false", "False", "0", "no", "off"])
def test_words_for_false_turn_a_switch_off(text: str) -> None:
    assert not read_settings({"RATE_LIMIT_ENABLED": text}).rate_limit_enabled


def test_lists_are_separated_by_commas() -> None:
    settings = read_settings(
        {
            "API_KEYS": f"{LONG}1, {LONG}2,,{LONG}3 ",
            "ALLOWED_ORIGINS": "https://a.example,https://b.example",
            "ALLOWED_IPS": "10.0.0.1/8, ::1",
        }
    )
    assert settings.api_keys == (LONG + "1", LONG + "2", LONG + "3")
    assert settings.allowed_origins == ("https://a.example", "https://b.example")
    assert settings.allowed_ips == (
        ipaddress.ip_network("10.0.0.0/8"),
        ipaddress.ip_network("::1/128"),
    )


def test_choices_are_read_in_any_case() -> None:
    settings = read_settings({"LOG_LEVEL": "debug", "DEVICE": "CPU"})
    assert (settings.log_level, settings.device) == ("DEBUG", "cpu")


def test_secrets_are_not_shown() -> None:
    key, secret, other = (f"opensesame-opensesame-{number}" for number in range(3))
    environment = {"API_KEYS": key, "JWT_SECRET": secret, "JWT_PUBLIC_KEY": other, "PORT": "x"}
    with pytest.raises(SettingsError) as refused:
        read_settings(environment)
    assert "opensesame" not in str(refused.value)
    del environment["PORT"]
    settings = read_settings(environment)
    assert "opensesame" not in repr(settings)


@pytest.mark.parametrize("name", ["API_KEYS", "JWT_SECRET", "TOKEN_SECRET"])
def test_a_secret_that_can_be_guessed_stops_the_start_and_is_not_shown(name: str) -> None:
    assert read_settings({name: LONG})
    with pytest.raises(SettingsError, match=rf"{name} is .* at least 16 .*characters") as refused:
        read_settings({name: LONG[1:]})
    assert LONG[1:] not in str(refused.value)


@pytest.mark.parametrize("keys", [f"{LONG},short", f"{LONG},é{LONG}"])
def test_every_key_must_be_long_and_fit_a_header(keys: str) -> None:
    with pytest.raises(SettingsError, match="ASCII"):
        read_settings({"API_KEYS": keys})


REDIS_SETTINGS = ("RATE_LIMIT_STORE", "SESSION_STORE")


@pytest.mark.parametrize("name", REDIS_SETTINGS)
@pytest.mark.parametrize(
    "url",
    [
        "memory",
        "redis",
        "http://host:6379",
        "redis://",
        "redis://:6379",
        "redis://host:port",
        "redis://host:70000",
        "redis://host:0",
        "redis://host/name",
        "redis://host?db=1",
        "redis://opensesame@host:port",
    ],
)
def test_a_redis_that_cannot_be_meant_stops_the_start(name: str, url: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is .*redis://") as refused:
        read_settings({name: url})
    assert "opensesame" not in str(refused.value)


@pytest.mark.parametrize("name", REDIS_SETTINGS)
@pytest.mark.parametrize(
    "url", ["redis://host", "redis://:opensesame@host:6380/3", "rediss://u:p@[::1]:6379/"]
)
def test_a_redis_is_named_by_its_url_and_its_password_not_shown(name: str, url: str) -> None:
    settings = read_settings({name: url})
    assert getattr(settings, name.lower()) == url
    assert url not in repr(settings)


@pytest.mark.parametrize("name", ["API_KEYS", "ALLOWED_IPS", "ALLOWED_ORIGINS"])
def test_a_list_of_nothing_does_not_open_the_worker(name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({name: " , "})
    assert name in str(refused.value)


def test_the_text_of_a_key_in_place_of_its_path_is_refused_and_not_shown() -> None:
    pem = "-----BEGIN PRIVATE KEY-----\n" + "opensesame" * 100
    with pytest.raises(SettingsError) as refused:
        read_settings({"TLS_KEY_FILE": pem, "TLS_CERT_FILE": "/no/such/file"})
    assert "TLS_KEY_FILE" in str(refused.value)
    assert "opensesame" not in str(refused.value)


def test_certificate_and_key_go_together(tmp_path: Path) -> None:
    file = tmp_path / "some.pem"
    file.write_text("pem")
    for name in ("TLS_CERT_FILE", "TLS_KEY_FILE"):
        with pytest.raises(SettingsError, match="go together"):
            read_settings({name: str(file)})
    settings = read_settings({"TLS_CERT_FILE": str(file), "TLS_KEY_FILE": str(file)})
    assert settings.tls_cert_file == settings.tls_key_file == file


def test_the_public_port_is_the_one_given_for_the_port_in_use() -> None:
    given = {"RUNPOD_TCP_PORT_8000": "10001", "RUNPOD_TCP_PORT_9000": "10002"}
    assert read_settings(given).runpod_tcp_port == 10001
    assert read_settings({**given, "PORT": "9000"}).runpod_tcp_port == 10002
    assert read_settings({**given, "PORT": "7000"}).runpod_tcp_port is None


def test_where_it_runs_follows_from_what_runpod_sets() -> None:
    assert not read_settings({}).runs_on_runpod
    pod = read_settings({"RUNPOD_POD_ID": "p"})
    assert pod.runs_on_runpod
    assert not pod.is_queue_worker
    assert read_settings({"RUNPOD_WEBHOOK_GET_JOB": "https://jobs.example"}).is_queue_worker


@pytest.mark.parametrize("name", ["API_KEYS", "JWT_SECRET", "JWT_PUBLIC_KEY"])
def test_any_credential_set_makes_credentials_needed(name: str) -> None:
    assert not read_settings({}).needs_credentials
    assert read_settings({name: LONG}).needs_credentials


def test_without_an_environment_the_process_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_SESSIONS", "7")
    assert read_settings().max_sessions == 7


@pytest.mark.parametrize(
    ("name", "meant"),
    [("MAX_SESSION", "MAX_SESSIONS"), ("API_KEY", "API_KEYS"), ("MODEL_IDS", "MODEL_ID")]
    + [("RATE_LIMIT_ENABLE", "RATE_LIMIT_ENABLED"), ("max_batchsize", "MAX_BATCH_SIZE")],
)
def test_a_variable_that_is_nearly_a_setting_is_named(name: str, meant: str) -> None:
    (sentence,) = near_misses({name: "1", "PATH": "/bin", "HOME": "/root"})
    assert sentence == f"{name} is no setting of this worker; {meant} is meant perhaps"


def test_a_setting_and_a_stranger_are_no_near_misses() -> None:
    others = ("PATH", "HOSTNAME", "SORT", "RUNPOD_API_KEY", "HF_TOKEN", "MODEL", "SESSION")
    assert near_misses(dict.fromkeys((*VARIABLES, *others), "")) == []


def test_an_option_goes_before_its_variable_and_is_read_alike() -> None:
    settings = read_settings({"PORT": "9000", "HOST": "::1"}, {"PORT": "9001", "MODEL_ID": "a/b"})
    assert (settings.port, settings.host, settings.model_id) == (9001, "::1", "a/b")
    with pytest.raises(SettingsError, match="PORT is 'high'"):
        read_settings({"PORT": "9000"}, {"PORT": "high"})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("OFF", "off"),
        ("embedded", "embedded"),
        ("http://localhost:8880/v1/", "http://localhost:8880/v1"),
        ("https://example.com/voices/v1", "https://example.com/voices/v1"),
    ],
)
def test_speech_is_off_embedded_or_a_server(text: str, value: str) -> None:
    assert read_settings({"SPEECH": text}).speech == value


@pytest.mark.parametrize(
    "text", ["on", "localhost:8880/v1", "http://localhost:8880", "ftp://a/v1", "http://a/v1?x=1"]
)
def test_what_speech_cannot_be_is_told_with_what_it_may_be(text: str) -> None:
    with pytest.raises(SettingsError, match=r"SPEECH is .*off, embedded, or the http\(s\)"):
        read_settings({"SPEECH": text})


def test_the_key_of_the_speech_server_is_shown_nowhere() -> None:
    assert "a secret key" not in repr(read_settings({"SPEECH_API_KEY": "a secret key"}))


def test_settings_made_by_code_know_nothing_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MAX_SESSIONS", "7")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("MAX_SESSIONS=8\n")
    assert Settings().max_sessions == 50
    assert read_settings({}).max_sessions == 50


def test_settings_made_by_code_are_checked_as_well() -> None:
    with pytest.raises(ValidationError, match="port"):
        Settings(port=0)
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 80


def test_names_are_in_capitals_and_lists_are_not_json() -> None:
    assert read_settings({"max_sessions": "7"}).max_sessions == 50
    assert read_settings({"ALLOWED_ORIGINS": '["a"]'}).allowed_origins == ('["a"]',)
