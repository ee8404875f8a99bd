"""Refusals of the server's own, in OpenAI's shape."""

from collections.abc import Callable
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from tests.support.embedded_server import KEY, EmbeddedServer
from tests.support.running_server import RunningServer
from voxtral_worker.engine.request import Failed
from voxtral_worker.errors import AtCapacity, EngineFailure, OutOfMemory

Start = Callable[..., RunningServer]


def client_of(server: RunningServer, key: str = "none") -> AsyncOpenAI:
    return AsyncOpenAI(api_key=key, base_url=f"{server.url}/v1", max_retries=0)


async def ask(client: AsyncOpenAI) -> Any:
    return await client.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "hello"}]
    )


async def call(method: str, url: str, **options: Any) -> tuple[int, Any, Any]:
    async with aiohttp.ClientSession() as http, http.request(method, url, **options) as response:
        return response.status, await response.json(content_type=None), response.headers


async def test_a_wrong_key_is_no_key(embedded: EmbeddedServer) -> None:
    async with embedded.client("sk-wrong") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.models.list()
    assert caught.value.code == "invalid_api_key"
    status, body, _ = await call("GET", f"{embedded.url}/v1/models")
    assert status == 401
    assert set(body["error"]) == {"message", "type", "param", "code"}


async def test_unknown_paths_and_verbs_are_told_in_the_same_shape(
    embedded: EmbeddedServer,
) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
    ):
        told, body, _ = await call(method, embedded.url + path, headers=headers)
        assert told == status
        assert body["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff"])
async def test_a_body_that_is_no_object_is_told(embedded: EmbeddedServer, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    url = f"{embedded.url}/v1/chat/completions"
    status, told, _ = await call("POST", url, data=body, headers=headers)
    assert (status, told["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n--b--\r\n"),
        ("multipart/form-data; boundary=b", b"no parts at all"),
        ("multipart/form-data; boundary=b", b"--b\r\nA: \x1c\r\n\r\nx\r\n--b--\r\n"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\xff\r\n--b--\r\n',
        ),
    ],
)
async def test_a_form_that_is_none_is_told(
    embedded: EmbeddedServer, kind: str, body: bytes
) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": kind}
    url = f"{embedded.url}/v1/audio/transcriptions"
    status, told, _ = await call("POST", url, data=body, headers=headers)
    assert (status, told["error"]["type"]) == (400, "invalid_request_error")


async def test_a_model_must_be_named(embedded: EmbeddedServer) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    body = {"messages": [{"role": "user", "content": "hello"}]}
    url = f"{embedded.url}/v1/chat/completions"
    status, told, _ = await call("POST", url, json=body, headers=headers)
    assert (status, told["error"]["param"]) == (400, "model")


async def test_a_loading_worker_is_not_ready(start_server: Start) -> None:
    client = client_of(start_server(ready=False))
    for asked in (client.models.list(), ask(client)):
        with pytest.raises(openai.InternalServerError) as caught:
            await asked
        assert caught.value.status_code == 503
        assert caught.value.code == "not_ready"
    await client.close()


async def test_calls_a_minute_are_limited_with_headers(start_server: Start) -> None:
    server = start_server(rate_limit_enabled=True, rate_limit_text_per_minute=2)
    client = client_of(server)
    await ask(client)
    answer = await client.chat.completions.with_raw_response.create(
        model="fake", messages=[{"role": "user", "content": "hello"}]
    )
    assert answer.headers["X-RateLimit-Remaining"] == "0"
    with pytest.raises(openai.RateLimitError) as caught:
        await ask(client)
    assert caught.value.code == "rate_limit_exceeded"
    assert int(caught.value.response.headers["Retry-After"]) > 0
    await client.close()


@pytest.mark.parametrize(
    ("error", "code"),
    [(AtCapacity("full"), "at_capacity"), (OutOfMemory("no room"), "gpu_oom")],
)
async def test_an_engine_without_room_is_told(
    server: RunningServer, error: AtCapacity | OutOfMemory, code: str
) -> None:
    server.engine.refuses = error
    client = client_of(server)
    with pytest.raises(openai.InternalServerError) as caught:
        await ask(client)
    assert (caught.value.status_code, caught.value.code) == (503, code)
    await client.close()


async def test_a_failure_in_mid_stream_is_told_in_the_stream(server: RunningServer) -> None:
    server.engine.holds = True
    client = client_of(server)
    stream = await client.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "hello"}], stream=True
    )
    seen = []
    with pytest.raises(openai.APIError, match="lost"):
        async for chunk in stream:
            seen.append(chunk.choices[0].delta.content)
            (generation,) = server.engine.held
            generation.report(Failed(EngineFailure("the device is lost")))
    assert seen == ["You "]
    await client.close()


async def test_pages_may_read_streams_and_send_the_headers_of_the_library(
    server: RunningServer,
) -> None:
    asked = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-stainless-os",
    }
    url = f"{server.url}/v1/chat/completions"
    async with aiohttp.ClientSession() as http:
        async with http.options(url, headers=asked) as response:
            assert response.status == 204
            assert "x-stainless-os" in response.headers["Access-Control-Allow-Headers"]
        body = {"model": "fake", "stream": True, "messages": [{"role": "user", "content": "a"}]}
        async with http.post(url, json=body, headers={"Origin": asked["Origin"]}) as response:
            assert response.headers["Access-Control-Allow-Origin"] == asked["Origin"]
            text = await response.text()
    assert text.endswith("data: [DONE]\n\n")


async def test_every_call_is_described(server: RunningServer) -> None:
    _, described, _ = await call("GET", f"{server.url}/openapi.json")
    assert {
        "/v1/models",
        "/v1/models/{model}",
        "/v1/audio/transcriptions",
        "/v1/chat/completions",
    } <= set(described["paths"])
    assert "OpenAIError" in described["components"]["schemas"]
