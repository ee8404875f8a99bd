"""The examples do what they say, against a real worker with the embedded model."""

import asyncio
import base64
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import soundfile
import soxr
import websockets

from examples import batch_job, twilio_bridge
from voxtral_worker.jobs.schema import read_input
from voxtral_worker.settings import EMBEDDED_MODEL, REPOSITORY

WAIT_S = 60
CLIP = EMBEDDED_MODEL / "clips" / "turn-on-the-kitchen-light.wav"
WORDS = "Turn on the kitchen light."
SCRIPTS = sorted((REPOSITORY / "examples").glob("*.py"))
MESSAGE_BYTES = 160  # 20 ms


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", *map(str, words)]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=WAIT_S, check=False
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_says_how_it_is_used_and_stands_in_the_list(script: Path) -> None:
    done = run(script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage:" in done.stdout
    assert f"[`{script.name}`]({script.name})" in (script.parent / "README.md").read_text()


def test_a_file_is_answered(worker: str) -> None:
    done = run("examples/file.py", CLIP, "--url", worker)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == f"You said: {WORDS}"


# Batch


class Platform(BaseHTTPRequestHandler):
    """RunPod's /runsync: takes what the worker takes, and fails a recording of no bytes."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        audio = base64.b64decode(body["input"]["audio_base64"])
        if self.path != "/v2/endpoint/runsync" or self.headers["Authorization"] != "Bearer secret":
            self.send_error(401)
            return
        if audio:
            assert read_input(body["input"])
            answer: dict[str, Any] = {"status": "COMPLETED"}
            answer["output"] = [{"index": 0, "text": f"{len(audio)} bytes"}]
        else:
            answer = {"status": "FAILED", "error": "audio_base64 holds no audio (BAD_AUDIO)"}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def platform() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Platform) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/v2/endpoint"
        server.shutdown()
        serving.join()


def test_a_batch_prints_each_file_and_a_failure_is_told_with_its_file(
    platform: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.wav"
    empty.touch()
    lost = tmp_path / "lost.wav"
    assert batch_job.main([empty, CLIP, lost], platform, "secret") == 1
    told = capsys.readouterr()
    assert told.out == f"{CLIP}: {CLIP.stat().st_size} bytes\n"
    assert f"{empty}: failed: the job is FAILED: audio_base64 holds no audio" in told.err
    assert f"{lost}: failed: " in told.err
    assert batch_job.main([CLIP], platform, "secret") == 0


def test_a_batch_tells_a_wrong_key_and_a_file_that_is_too_large(
    platform: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = tmp_path / "large.wav"
    with large.open("wb") as file:
        file.truncate(batch_job.MOST_FILE_BYTES + 1)
    assert batch_job.main([CLIP], platform, "wrong") == 1
    assert "401" in capsys.readouterr().err
    assert batch_job.main([large], platform, "secret") == 1
    assert "use audio_url" in capsys.readouterr().err


# Twilio


def messages(name: str = "twilio.jsonl") -> dict[str, dict[str, Any]]:
    """The messages of a call by their event, in the form that Twilio documents."""
    lines = (Path(__file__).parent / name).read_text("utf-8").splitlines()
    return {message["event"]: message for message in map(json.loads, lines)}


def spoken() -> bytes:
    """The clip and a second of silence as a telephone sends them: mu-law at 8 kHz."""
    samples, rate = soundfile.read(CLIP, dtype="float32")
    file = io.BytesIO()
    low = soxr.resample(samples, rate, 8000)
    soundfile.write(file, low, 8000, format="RAW", subtype="ULAW")
    # Zero is 0xff in mu-law.
    return file.getvalue() + b"\xff" * 8000


def media(payload: bytes, track: str = "inbound") -> dict[str, Any]:
    message: dict[str, Any] = json.loads(json.dumps(messages()["media"]))
    message["media"] |= {"track": track, "payload": base64.b64encode(payload).decode()}
    return message


@asynccontextmanager
async def call(worker: str, told: list[tuple[str, str]]) -> Any:
    server = await twilio_bridge.listen(
        "127.0.0.1", 0, worker, None, lambda sid, text: told.append((sid, text))
    )
    port = server.sockets[0].getsockname()[1]
    async with asyncio.timeout(WAIT_S):
        async with websockets.connect(f"ws://127.0.0.1:{port}") as socket:
            yield socket
        server.close()
        await server.wait_closed()


async def send(socket: Any, *sent: dict[str, Any]) -> None:
    for message in sent:
        await socket.send(json.dumps(message))


async def test_a_telephone_call_is_answered_turn_by_turn(worker: str) -> None:
    told: list[tuple[str, str]] = []
    known, data = messages(), spoken()
    async with call(worker, told) as socket:
        await send(socket, known["connected"], known["start"], known["dtmf"])
        await send(socket, media(b"\x00" * MESSAGE_BYTES, "outbound"))
        for start in range(0, len(data), MESSAGE_BYTES):
            await send(socket, media(data[start : start + MESSAGE_BYTES]))
            await asyncio.sleep(0.002)
        await send(socket, known["mark"], known["stop"])
        await socket.wait_closed()
        assert socket.close_code == 1000
    assert told == [(known["start"]["start"]["callSid"], f"You said: {WORDS}")]


def changed(event: str, **fields: Any) -> dict[str, Any]:
    return {**messages()[event], **fields}


BAD = {
    "is not JSON": ["{"],
    "has no event": ["[]"],
    "media came before start": [json.dumps(messages()["media"])],
    "no callSid": [json.dumps(changed("start", start={}))],
    "mediaFormat is": [
        json.dumps(
            changed("start", start={"callSid": "CA1", "mediaFormat": {"encoding": "audio/opus"}})
        )
    ],
    "no track or no payload": [
        json.dumps(messages()["start"]),
        json.dumps(changed("media", media={"track": "inbound"})),
    ],
    "not base64": [
        json.dumps(messages()["start"]),
        json.dumps(changed("media", media={"track": "inbound", "payload": "?"})),
    ],
}


@pytest.mark.parametrize("reason", BAD)
async def test_what_is_no_call_is_refused_with_the_reason(worker: str, reason: str) -> None:
    told: list[tuple[str, str]] = []
    async with call(worker, told) as socket:
        for text in BAD[reason]:
            await socket.send(text)
        await socket.wait_closed()
        assert socket.close_code == 1003
        assert reason in socket.close_reason
    assert told == []
