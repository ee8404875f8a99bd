"""A small body must not hold up the event loop, on which all live audio waits."""

import gzip
import io
import json
import threading
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.support.running_server import RunningServer
from voxtral_worker.server.openai.body import PARSED_AT_ONCE_BYTES


def form(names: list[str], headers: str = "") -> tuple[bytes, dict[str, str]]:
    head = "--b\r\nContent-Disposition: form-data; name="
    parts = [f'{head}"{name}"\r\n{headers}\r\nx\r\n' for name in names]
    return "".join([*parts, "--b--\r\n"]).encode(), {
        "Content-Type": "multipart/form-data; boundary=b"
    }


async def post(
    server: RunningServer, path: str, body: bytes, headers: dict[str, str]
) -> tuple[int, str]:
    async with (
        ClientSession() as http,
        http.post(f"{server.url}{path}", data=io.BytesIO(body), headers=headers) as response,
    ):
        return response.status, await response.text()


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/audio/transcriptions", "/session/create"]
)
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "GZIP"])
async def test_a_compressed_body_is_refused(
    server: RunningServer, path: str, encoding: str
) -> None:
    body = gzip.compress(json.dumps({"model": "fake"}).encode())
    status, text = await post(server, path, body, {"Content-Encoding": encoding})
    assert status == 415
    assert "Content-Encoding" in text


async def test_a_form_of_many_parts_is_refused_at_the_first_one_too_many(
    server: RunningServer,
) -> None:
    status, text = await post(server, "/v1/audio/transcriptions", *form(["a"] * 65))
    assert status == 400
    assert "more than 64 parts" in text


async def test_a_form_has_one_file(server: RunningServer) -> None:
    status, text = await post(server, "/v1/audio/transcriptions", *form(["file", "file"]))
    assert status == 400
    assert "more than one file" in text


async def test_a_recording_under_another_name_is_told_where_it_goes(
    server: RunningServer,
) -> None:
    body, headers = form(["audio_file"])
    body = body.replace(b"\r\nx\r\n", b"\r\n\xff\xfe\r\n")
    status, text = await post(server, "/v1/audio/transcriptions", body, headers)
    assert status == 400
    assert "audio_file" in text
    assert "file" in text


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "user", "content": [{"type": "text", "text": "a"}] * 65}], "64 parts"),
        ([{"role": "user", "content": "a"}] * 257, "1 to 256 messages"),
    ],
)
async def test_a_chat_call_has_a_bound_on_its_messages_and_parts(
    server: RunningServer, messages: list[object], said: str
) -> None:
    body = json.dumps({"model": "fake", "messages": messages}).encode()
    status, text = await post(server, "/v1/chat/completions", body, {})
    assert status == 400
    assert said in text


async def test_a_large_body_without_a_recording_is_refused(server: RunningServer) -> None:
    content = [{"type": "text", "text": "a"}] * 200_000
    body = json.dumps({"model": "fake", "messages": [{"role": "user", "content": content}]})
    status, text = await post(server, "/v1/chat/completions", body.encode(), {})
    assert (status, "4 MiB" in text) == (413, True)


@pytest.mark.parametrize(
    ("path", "size", "thread"),
    [
        ("/v1/chat/completions", PARSED_AT_ONCE_BYTES, "server"),
        ("/v1/chat/completions", PARSED_AT_ONCE_BYTES + 1, "aside"),
        ("/v1/chat/completions", 2 << 20, "aside"),
        ("/session/create", 100_000, "server"),
    ],
)
async def test_a_large_body_is_parsed_beside_the_event_loop(
    server: RunningServer, path: str, size: int, thread: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    loads = json.loads

    def parse(text: str | bytes) -> Any:
        parsed.append(threading.current_thread().name)
        return loads(text)

    monkeypatch.setattr("voxtral_worker.json_text.json.loads", parse)
    body = b'{"model":"fake","messages":"%s"}' % (b"x" * (size - 30))
    assert (await post(server, path, body, {}))[0] == 400
    assert len(body) == size
    # The client's own reading is in the list, too.
    assert parsed[0] == thread


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/session/create"])
async def test_a_body_of_many_small_lists_is_refused(server: RunningServer, path: str) -> None:
    status, text = await post(server, path, b'{"audio":[' + b"[]," * 70_000 + b"0]}", {})
    assert (status, "65536 opening brackets" in text) == (400, True)
