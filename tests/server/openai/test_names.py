"""Further names of the model, and what there is under /v1."""

from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.server.openai.test_errors import call, client_of
from tests.support.running_server import RunningServer

Start = Callable[..., RunningServer]


async def answered(client: AsyncOpenAI, name: str) -> str:
    made = await client.chat.completions.create(
        model=name, messages=[{"role": "user", "content": "hello"}]
    )
    return made.model


async def connected(client: AsyncOpenAI, name: str, **session: Any) -> Any:
    async with client.realtime.connect(model=name) as connection:
        created: Any = await connection.recv()
        if session:
            await connection.session.update(session={"type": "realtime", **session})  # type: ignore[arg-type]
            created = await connection.recv()
        return created


async def test_a_model_may_have_further_names(start_server: Start) -> None:
    server = start_server(model_aliases=("gpt-realtime", "whisper-1"))
    async with client_of(server) as client:
        assert [model.id async for model in client.models.list()] == [
            "fake",
            "gpt-realtime",
            "whisper-1",
        ]
        assert (await client.models.retrieve("whisper-1")).id == "whisper-1"
        # Answers carry the id of what is served.
        assert await answered(client, "gpt-realtime") == "fake"
        updated = await connected(client, "gpt-realtime", model="gpt-realtime")
        assert (updated.type, updated.session.model) == ("session.updated", "fake")
        with pytest.raises(openai.NotFoundError) as caught:
            await answered(client, "gpt-4o")
        assert "'fake'" in caught.value.message
        refused = await connected(client, "whisper-1", model="gpt-4o")
        assert "served is 'fake'" in refused.error.message


async def test_a_star_is_any_name(start_server: Start) -> None:
    server = start_server(model_aliases=("*",))
    async with client_of(server) as client:
        assert [model.id async for model in client.models.list()] == ["fake"]
        assert (await client.models.retrieve("gpt-4o")).id == "fake"
        assert await answered(client, "gpt-4o") == "fake"
        updated = await connected(client, "whatever", model="gpt-realtime-2.1")
        assert updated.session.model == "fake"


async def test_a_name_must_be_a_text_even_if_any_is_good(start_server: Start) -> None:
    server = start_server(model_aliases=("*",))
    body = {"model": 7, "messages": [{"role": "user", "content": "a"}]}
    status, told, _ = await call("POST", f"{server.url}/v1/chat/completions", json=body)
    assert (status, told["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/embeddings", "/v1", "/v1/", "/v1/v1/models"]
)
async def test_what_is_not_there_is_told_with_what_there_is(
    server: RunningServer, path: str
) -> None:
    status, told, _ = await call("POST", server.url + path, json={})
    assert status == 404
    message = told["error"]["message"]
    assert f"'{path}'" in message
    for there in (
        "GET /v1/models,",
        "POST /v1/audio/transcriptions",
        "POST /v1/chat/completions",
        "POST /v1/responses",
        "GET /v1/realtime",
    ):
        assert there in message
    assert "HEAD" not in message
