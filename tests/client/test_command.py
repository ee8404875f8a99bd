"""The command `voxtral` as a person types it."""

import asyncio
import io
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.client.test_client import CLIP, SAID
from tests.support.embedded_server import EmbeddedServer
from tests.support.ports import free_port
from tests.support.running_server import LOOPBACK, RunningServer
from tests.support.sounds import clips, silence
from voxtral_worker import __version__
from voxtral_worker.client import VoxtralClient, VoxtralError
from voxtral_worker.client.chat import Chat
from voxtral_worker.client.command import main
from voxtral_worker.client.rest import Rest
from voxtral_worker.client.sound import decode
from voxtral_worker.server.lifecycle import Phase
from voxtral_worker.settings import Settings
from voxtral_worker.speech.speech import open_speech

Start = Callable[..., RunningServer]

NOBODY = f"http://127.0.0.1:{free_port()}"


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "voxtral_worker.client.command", *words]


def voxtral(*words: str, typed: str = "", **settings: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(*words),
        env={**os.environ, **settings},
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_file_is_sent_and_its_answer_printed(worker: str) -> None:
    done = voxtral("send", str(CLIP), "--fast", "--url", worker)
    assert (done.returncode, done.stdout, done.stderr) == (0, SAID + "\n", "")


def test_a_recording_of_another_kind_is_sent_as_well(worker: str, tmp_path: Path) -> None:
    samples, rate = soundfile.read(CLIP)
    path = tmp_path / "stereo.flac"
    soundfile.write(path, samples[:, None].repeat(2, axis=1), rate)
    done = voxtral("send", str(path), "--fast", "--mode", "transcribe", "--url", worker)
    assert (done.returncode, done.stdout) == (0, "Turn on the kitchen light.\n")


def test_a_person_at_a_terminal_sees_how_far_it_is(worker: str) -> None:
    seen, given = pty.openpty()
    termios.tcsetwinsize(given, (24, 80))
    done = subprocess.run(
        command("send", str(CLIP), "--fast", "--url", worker),
        stdout=subprocess.PIPE,
        stderr=given,
        timeout=60,
        check=False,
    )
    os.set_blocking(seen, False)
    progress = os.read(seen, 65536).decode()
    os.close(given)
    os.close(seen)
    assert (done.returncode, done.stdout.decode()) == (0, SAID + "\n")
    assert "sending" in progress
    assert "100%" in progress


def plain(text: str) -> str:
    """The words alone, which is how the clips are named."""
    return re.sub(r"[^\w ]", "", text).lower()


def test_every_sentence_of_a_long_file_is_written_down_in_its_order(
    worker: str, tmp_path: Path
) -> None:
    sentences = list(clips().items()) * 2
    gap = silence(22)
    samples = gap + b"".join(clip + gap for _, clip in sentences)
    path = tmp_path / "long.wav"
    soundfile.write(path, np.frombuffer(samples, "<i2"), 16_000)
    done = voxtral("send", str(path), "--fast", "--mode", "transcribe", "--url", worker)
    assert (done.returncode, done.stderr) == (0, "")
    written = [plain(line) for line in done.stdout.splitlines()]
    assert written == [words for words, _ in sentences]


def test_every_answer_to_a_recording_is_whole(worker: str, tmp_path: Path) -> None:
    (words, first), (_, second), *_ = clips().items()
    # Longer than a turn stays open for more.
    gap = silence(50)
    path = tmp_path / "two.wav"
    soundfile.write(path, np.frombuffer(gap + first + gap + second + gap, "<i2"), 16_000)
    done = voxtral("send", str(path), "--fast", "--url", worker)
    answers = [plain(line) for line in done.stdout.splitlines()]
    assert answers[0] == f"you said {words}"
    assert len(answers) == 2


PLAYED = "played.pcm"
MICROPHONE = f"""
import threading, wave

class PortAudioError(Exception):
    pass

class RawInputStream:
    def __init__(self, *, callback, **form):
        self.callback = callback

    def start(self):
        threading.Thread(target=self.speak).start()

    def speak(self):
        with wave.open({str(CLIP)!r}) as file:
            spoken = file.readframes(file.getnframes()) + bytes(32_000)
        for start in range(0, len(spoken), 3200):
            self.callback(spoken[start : start + 3200], 1600, None, None)

    def close(self):
        pass

class RawOutputStream:
    def __init__(self, *, callback, **form):
        self.callback, self.is_over = callback, threading.Event()

    def start(self):
        self.thread = threading.Thread(target=self.listen)
        self.thread.start()

    def listen(self):
        with open({PLAYED!r}, "ab", buffering=0) as played:
            while not self.is_over.wait(0.02):
                out = bytearray(960)
                self.callback(memoryview(out), 480, None, None)
                played.write(out)

    def close(self):
        self.is_over.set()
        self.thread.join()
"""


def test_a_person_talks_by_microphone_until_ctrl_c(worker: str, tmp_path: Path) -> None:
    (tmp_path / "sounddevice.py").write_text(MICROPHONE)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        command("talk", "--url", worker),
        env={**os.environ, "PYTHONPATH": paths},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == SAID + "\n"
        # The answer is heard as well.
        until_loud(tmp_path / PLAYED)
        program.send_signal(signal.SIGINT)
        _, complaint = program.communicate(timeout=60)
    assert (program.returncode, complaint) == (0, "")


def until_loud(path: Path) -> None:
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        data = path.read_bytes() if path.exists() else b""
        samples = np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.int32)
        if np.abs(samples).max(initial=0) > 3000:
            return
        time.sleep(0.05)
    raise AssertionError("nothing was played")


def test_a_person_may_have_the_answers_written_alone(worker: str, tmp_path: Path) -> None:
    (tmp_path / "sounddevice.py").write_text(MICROPHONE)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        command("talk", "--mute", "--url", worker),
        env={**os.environ, "PYTHONPATH": paths},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == SAID + "\n"
        program.send_signal(signal.SIGINT)
        program.communicate(timeout=60)
    assert not (tmp_path / PLAYED).exists()


def test_the_health_of_a_worker_is_told_to_people_and_to_programs(worker: str) -> None:
    done = voxtral("health", "--url", worker)
    assert (done.returncode, done.stderr) == (0, "")
    first, model, sessions, waiting = done.stdout.splitlines()
    assert first.startswith(f"healthy, version {__version__}, up for 0:")
    assert model == "model     voxtral-tiny on cpu in float32"
    assert re.fullmatch(r"sessions  \d+ of \d+, room for \d+ more", sessions)
    assert re.fullmatch(r"waiting   \d+ requests", waiting)
    done = voxtral("health", "--json", "--url", worker)
    assert done.returncode == 0
    assert json.loads(done.stdout)["model"]["id"] == "voxtral-tiny"


def test_of_a_worker_that_is_not_ready_the_health_says_so_and_ends_with_1(
    capsys: pytest.CaptureFixture[str], start_server: Start
) -> None:
    server = start_server()
    server.thread.fail()
    with pytest.raises(SystemExit) as ended:
        main(["health", "--url", server.url])
    assert ended.value.code == 1
    assert capsys.readouterr().out.startswith(f"{Phase.FAILED.value}, version")


@pytest.mark.parametrize("kind", ["wav", "raw"])
def test_a_sound_comes_from_standard_input(worker: str, kind: str) -> None:
    sound, words = CLIP.read_bytes(), ["send", "-", "--fast", "--url", worker]
    if kind == "raw":
        sound, words = decode(sound), [*words, "--raw"]
    done = subprocess.run(
        command(*words), input=sound, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == SAID + "\n"


def test_what_is_no_sound_on_standard_input_is_told_in_one_line() -> None:
    for words, typed, line in (
        ((), "hello", "not a readable sound file (wav, flac, mp3 or ogg)"),
        (("--raw",), "odd", "3 bytes are not samples of two bytes each"),
        (("--raw",), "", "0 bytes are not samples of two bytes each"),
    ):
        done = voxtral("send", "-", *words, typed=typed)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"voxtral: standard input: {line}\n"


def test_a_person_at_a_terminal_is_told_that_a_sound_is_wanted() -> None:
    seen, given = pty.openpty()
    done = subprocess.run(
        command("send", "-"), stdin=given, capture_output=True, text=True, timeout=60, check=False
    )
    os.close(given)
    os.close(seen)
    assert done.returncode == 1
    assert done.stderr.startswith("voxtral: standard input is a terminal")


def test_standard_input_without_end_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("voxtral_worker.client.sound.MOST_INPUT_BYTES", 10)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(bytes(11))))
    with pytest.raises(SystemExit, match="standard input: more than 10 bytes"):
        main(["send", "-"])


def test_a_conversation_is_typed_line_by_line(worker: str) -> None:
    done = voxtral("chat", typed="hello\n\n  \nhello\n", VOXTRAL_URL=worker)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Hello! How can I help you?\n" * 2


def test_a_conversation_knows_what_was_said_before(worker: str) -> None:
    chat = Chat(Rest(worker, None), "voxtral-tiny")
    assert "".join(chat.ask("hello")) == "Hello! How can I help you?"
    with pytest.raises(VoxtralError):
        list(chat.ask("long " * 100_000))
    assert chat.messages == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hello! How can I help you?"},
    ]
    assert list(chat.ask("hello"))
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2


def test_a_line_that_is_refused_does_not_end_the_conversation(worker: str) -> None:
    done = voxtral("chat", "--url", worker, typed="long " * 100_000 + "\nhello\n")
    assert (done.returncode, done.stdout) == (1, "Hello! How can I help you?\n")
    assert re.fullmatch("voxtral: [^{}]+\n", done.stderr)


@pytest.mark.parametrize("is_reset", [False, True])
def test_an_answer_that_breaks_off_is_told(is_reset: bool) -> None:
    has_heard = threading.Event()
    answer = b'data: {"choices": [{"delta": {"content": "Hel"}}]}\n\n'
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            line, _ = server.accept()
            with line:
                asked = b""
                while b'"hello"' not in asked:
                    asked += line.recv(65536)
                line.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + answer)
                has_heard.wait(30)
                if is_reset:
                    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        serving = threading.Thread(target=serve)
        serving.start()
        chat = Chat(Rest(f"http://127.0.0.1:{server.getsockname()[1]}", None), "any")
        pieces = chat.ask("hello")
        assert next(pieces) == "Hel"
        has_heard.set()
        with pytest.raises(VoxtralError, match="lost before the answer was whole"):
            next(pieces)
        serving.join(30)
    assert chat.messages == []


def test_address_and_key_come_from_variables(start_server: Start) -> None:
    url, key = start_server(api_keys=("key-of-sixteen-letters",)).url, "key-of-sixteen-letters"
    address = url.removeprefix("http://")
    done = voxtral("send", str(CLIP), "--fast", VOXTRAL_URL=address, VOXTRAL_API_KEY=f"{key}\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "You said so.\n", "")
    # An option goes before its variable.
    done = voxtral("health", "--token", "another", VOXTRAL_URL=url, VOXTRAL_API_KEY=key)
    assert (done.returncode, done.stderr) == (1, "voxtral: the credentials are not good\n")
    done = voxtral("health", "--url", NOBODY, VOXTRAL_URL=url)
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"VOXTRAL_URL": "ftp://x"}, "VOXTRAL_URL: 'ftp://x' is not the address of a worker"),
        (
            {"VOXTRAL_API_KEY": "ké"},
            "VOXTRAL_API_KEY: the token must be printable ASCII characters",
        ),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(settings: dict[str, str], line: str) -> None:
    done = voxtral("health", **settings)
    assert done.returncode == 2
    assert line in done.stderr


@pytest.mark.parametrize("name", ["send", "talk", "chat", "speak", "bench", "health"])
def test_every_command_shows_defaults_and_version(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: VOXTRAL_URL, else http://localhost:8000)" in text
    assert "(default: VOXTRAL_API_KEY)" in text
    with pytest.raises(SystemExit):
        main([name, "--version"])
    assert capsys.readouterr().out == f"voxtral {__version__}\n"


def test_many_users_are_measured(worker: str) -> None:
    words = ("--sessions", "2", "--seconds", "1", "--pause", "0.8")
    done = voxtral("bench", "--url", worker, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sessions 2, sentences spoken 2\nturns answered 2, errors 0\n" in done.stdout
    figures = {line[:27].strip(): line.split()[-3:] for line in done.stdout.splitlines()}
    assert figures["ms"] == ["p50", "p95", "p99"]
    for row in ("end of speech → first delta", "decision → first delta"):
        assert all(float(figure) >= 0 for figure in figures[row])


def test_what_goes_wrong_under_many_users_is_listed() -> None:
    done = voxtral(
        "bench", "--url", NOBODY, "--clip", str(CLIP), "--seconds", "1", "--sessions", "2"
    )
    assert done.returncode == 1
    assert "errors 2" in done.stdout
    assert "2 × the worker cannot be reached" in done.stdout


def sessions_of(worker: str) -> int:
    return int(asyncio.run(VoxtralClient(worker).health())["active_sessions"])


def test_a_measurement_that_is_interrupted_shows_what_it_has(worker: str) -> None:
    words = ("--sessions", "1", "--seconds", "600", "--pause", "0")
    before, deadline_s = sessions_of(worker), time.monotonic() + 30
    with subprocess.Popen(
        command("bench", "--url", worker, *words, "--clip", str(CLIP)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        while sessions_of(worker) == before:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        program.send_signal(signal.SIGINT)
        printed, complaint = program.communicate(timeout=60)
    assert (program.returncode, complaint) == (130, "")
    assert "sessions 1" in printed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("send", "no-such.wav"), "no-such.wav: No such file or directory"),
        (("send", __file__), "not a readable sound file"),
        (("send", str(CLIP), "--url", NOBODY), "the worker cannot be reached"),
        (("health", "--url", NOBODY), "the worker cannot be reached"),
        (("bench", "--url", NOBODY), "the worker cannot be reached"),
    ],
)
def test_what_went_wrong_is_told_in_one_line(words: list[str], line: str) -> None:
    # A text that a program exits with goes to standard error, and the status is 1.
    with pytest.raises(SystemExit, match=f"^voxtral: .*{re.escape(line)}") as told:
        main(list(words))
    assert "\n" not in str(told.value)


def test_a_failure_ends_with_1_and_one_line() -> None:
    done = voxtral("send", "no-such.wav")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "voxtral: no-such.wav: No such file or directory\n"


def test_wrong_credentials_are_told_in_one_line(start_server: Start) -> None:
    url = start_server(api_keys=("a-key",)).url
    for words in (("send", str(CLIP)), ("health",)):
        with pytest.raises(SystemExit, match="^voxtral: the credentials are not good$"):
            main([*words, "--url", url, "--token", "another"])


def test_a_limit_is_told_in_the_workers_words(start_server: Start) -> None:
    server = start_server(
        rate_limit_enabled=True, rate_limit_sessions_per_minute=1, trusted_proxies=LOOPBACK
    )
    first, second = (
        voxtral("send", str(CLIP), "--fast", "--retries", "0", "--url", server.url)
        for _ in range(2)
    )
    assert (first.returncode, first.stderr) == (0, "")
    assert second.returncode == 1
    assert second.stderr.startswith("voxtral: over the limit of 1 ")
    assert second.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("sing",),
        ("send",),
        ("send", "a.wav", "--url", "ftp://localhost:8000"),
        ("send", "a.wav", "--url", "no address"),
        ("send", "a.wav", "--url", ""),
        ("health", "--token", "two\nlines"),
        ("send", "a.wav", "--retries", "-1"),
        ("bench", "http://localhost:8000"),
        ("bench", "--sessions", "0"),
        ("bench", "--pause", "nan"),
    ],
)
def test_a_wrong_use_ends_with_2(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as told:
        main(list(words))
    assert told.value.code == 2
    assert "usage: voxtral" in capsys.readouterr().err


@pytest.fixture(scope="module")
def voiced_url() -> Iterator[str]:
    """The URL of a worker that has a voice."""
    speech = open_speech(Settings(speech="embedded"))
    server = EmbeddedServer(speech, api_keys=())
    yield server.url
    server.stop()


def test_a_text_is_said_into_a_file_by_its_ending(voiced_url: str, tmp_path: Path) -> None:
    path = tmp_path / "said.mp3"
    done = voxtral("speak", "The light is on.", "-o", str(path), "--url", voiced_url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(decode(path.read_bytes())) > 32_000


def test_a_text_from_standard_input_is_said_to_standard_output(voiced_url: str) -> None:
    done = subprocess.run(
        command("speak", "-", "-o", "-", "--url", voiced_url),
        input=b"The light is on.",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"RIFF")


def test_a_voice_that_there_is_not_is_told_with_those_there_are(voiced_url: str) -> None:
    done = voxtral("speak", "Hi.", "-o", "x.wav", "--voice", "bass", "--url", voiced_url)
    assert done.returncode == 1
    assert "must be one of default, heart" in done.stderr


def test_a_file_that_cannot_be_written_is_told(voiced_url: str, tmp_path: Path) -> None:
    done = voxtral("speak", "Hi.", "-o", str(tmp_path), "--url", voiced_url)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr


async def test_the_client_says_texts_too(voiced_url: str) -> None:
    client = VoxtralClient(voiced_url)
    assert len(decode(await client.speak("The light is on."))) > 32_000
