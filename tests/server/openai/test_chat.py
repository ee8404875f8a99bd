"""Chat completions, by OpenAI's own client."""

import asyncio
import base64
import io
from typing import Any

import openai
import pytest
import soundfile
from openai import AsyncOpenAI

from tests.support.embedded_server import MODEL, WAIT_S, EmbeddedServer, clip
from tests.support.holding import holding
from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.layout import layout_of

LIGHT = base64.b64encode(clip("turn-on-the-kitchen-light")).decode()
HEARD = "You said: Turn on the kitchen light."


def spoken_message() -> Any:
    audio = {"type": "input_audio", "input_audio": {"data": LIGHT, "format": "wav"}}
    return {"role": "user", "content": [audio]}


def text(words: str, role: str = "user") -> Any:
    return {"role": role, "content": words}


async def test_the_one_model_is_listed_and_found(client: AsyncOpenAI) -> None:
    models = [model async for model in client.models.list()]
    assert [model.id for model in models] == [MODEL]
    assert (await client.models.retrieve(MODEL)).object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("gpt-4o")
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


async def test_a_text_is_answered(client: AsyncOpenAI) -> None:
    made = await client.chat.completions.create(
        model=MODEL, messages=[text("Hello, how are you?")], temperature=0
    )
    (choice,) = made.choices
    assert choice.message.content == "I am fine, thank you."
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert made.object == "chat.completion"
    assert made.usage is not None
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens
    assert made.usage.prompt_tokens_details is not None
    assert made.usage.prompt_tokens_details.audio_tokens == 0


async def test_speech_is_answered_whatever_was_said_before(client: AsyncOpenAI) -> None:
    made = await client.chat.completions.create(
        model=MODEL,
        messages=[
            text("You are a lamp.", "system"),
            text("hello"),
            text("Hello.", "assistant"),
            spoken_message(),
        ],
        temperature=0,
        max_completion_tokens=64,
    )
    assert made.choices[0].message.content == HEARD
    assert made.usage is not None
    assert made.usage.prompt_tokens_details is not None
    samples = soundfile.info(io.BytesIO(base64.b64decode(LIGHT))).frames
    assert made.usage.prompt_tokens_details.audio_tokens == layout_of(samples, "sampled").rows


async def test_a_stream_has_the_same_words_and_then_its_usage(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[spoken_message()],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == HEARD
    assert len(deltas) > 3
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 3
    assert len({chunk.id for chunk in chunks}) == 1


async def test_an_answer_ends_at_the_most_tokens_asked_for(client: AsyncOpenAI) -> None:
    made = await client.chat.completions.create(
        model=MODEL, messages=[spoken_message()], temperature=0, max_tokens=2
    )
    assert made.choices[0].finish_reason == "length"
    assert made.usage is not None
    assert made.usage.completion_tokens == 2


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"n": 5}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"seed": 0.5}, "seed"),
        ({"stop": ["."] * 5}, "stop"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"tools": [{"type": "function", "function": {"name": "é"}}]}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"extra_body": {"loudness": 1}}, "loudness"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
        ),
    ],
)
async def test_what_is_not_offered_is_told_by_its_name(
    client: AsyncOpenAI, options: dict[str, Any], param: str
) -> None:
    asked = {"model": MODEL, "messages": [text("hello")], **options}
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**asked)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param is not None
    assert caught.value.param.startswith(param)
    assert caught.value.param in caught.value.message


@pytest.mark.parametrize("data", ["*", "AAAA"])
async def test_audio_that_cannot_be_read_is_told_by_its_place(
    client: AsyncOpenAI, data: str
) -> None:
    audio: Any = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": [audio]}],
        )
    assert caught.value.param == "messages[0].content[0].input_audio.data"


async def test_what_changes_nothing_is_taken(client: AsyncOpenAI) -> None:
    made = await client.chat.completions.create(
        model=MODEL,
        messages=[text("hello")],
        n=1,
        logprobs=False,
        modalities=["text"],
        presence_penalty=0,
        response_format={"type": "text"},
        store=False,
        user="somebody",
        temperature=0,
    )
    assert made.choices[0].message.content


async def test_a_client_that_leaves_in_mid_stream_frees_the_engine(
    embedded: EmbeddedServer, client: AsyncOpenAI
) -> None:
    with holding(embedded.engine):
        for streams in (True, False):
            embedded.engine.has_begun.clear()
            await leave(client, embedded, streams)
            await until_cancelled(embedded.engine.last)


async def leave(client: AsyncOpenAI, embedded: EmbeddedServer, streams: bool) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": [text("what time is it")], "top_p": 0.9}
    if streams:
        stream = await client.chat.completions.create(**asked, stream=True)
        async for _ in stream:
            break
        await stream.close()
        return
    call = asyncio.create_task(client.chat.completions.create(**asked))
    await asyncio.to_thread(embedded.engine.has_begun.wait, WAIT_S)
    call.cancel()
    await asyncio.wait([call])


async def until_cancelled(generation: Generation | None) -> None:
    assert generation is not None
    async with asyncio.timeout(WAIT_S):
        while not generation.is_cancelled:  # noqa: ASYNC110 - it knows no events
            await asyncio.sleep(0.01)


async def said(client: AsyncOpenAI, *messages: dict[str, Any], **options: Any) -> list[str]:
    asked: dict[str, Any] = {"model": MODEL, "messages": list(messages), **options}
    made = await client.chat.completions.create(**{"temperature": 0, **asked})
    return [choice.message.content or "" for choice in made.choices]


async def test_an_answer_ends_where_a_stop_text_would_begin(client: AsyncOpenAI) -> None:
    assert await said(client, text("Hello, how are you?"), stop=["zebra", ", th"]) == ["I am fine"]
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[text("Hello, how are you?")],
        temperature=0,
        stop=", th",
        stream=True,
    )
    choices = [choice async for chunk in stream for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == "I am fine"
    assert choices[-1].finish_reason == "stop"


async def test_the_same_seed_gives_the_same_choices(client: AsyncOpenAI) -> None:
    hot = {"temperature": 2, "top_p": 1, "max_tokens": 8, "n": 4}
    first = await said(client, text("tell me something"), seed=3, **hot)
    beside = asyncio.gather(*[said(client, text(f"number {n}"), **hot) for n in range(3)])
    assert await said(client, text("tell me something"), seed=3, **hot) == first
    assert len(set(first)) > 1
    assert await said(client, text("tell me something"), seed=99, **hot) != first
    await beside


async def test_each_of_several_choices_is_streamed_under_its_index(client: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": [spoken_message()], "n": 3, "seed": 1}
    whole = await client.chat.completions.create(**asked)
    assert whole.usage is not None
    stream = await client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    texts = {0: "", 1: "", 2: ""}
    for choice in [choice for chunk in chunks for choice in chunk.choices]:
        texts[choice.index] += choice.delta.content or ""
    assert list(texts.values()) == [choice.message.content for choice in whole.choices]
    # The prompt counts once.
    one = await client.chat.completions.create(**{**asked, "n": 1})
    assert one.usage is not None
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens == one.usage.prompt_tokens
    assert whole.usage.completion_tokens > one.usage.completion_tokens


@pytest.mark.parametrize(
    "messages",
    [
        [text("Greet the user.", "system")],
        [text("Be kind.", "system"), text("hello"), text("Hello.", "assistant")],
        [text("hello"), text("Hello.", "assistant")],
        [text("Hello.", "assistant"), text("what time is it")],
        [text("hello"), text("", "assistant"), text("what time is it")],
        [text("hello"), text("Hi.", "assistant"), text("Ask for a name.", "developer")],
        [text("")],
    ],
)
async def test_every_order_of_messages_gets_an_answer(
    client: AsyncOpenAI, messages: list[dict[str, Any]]
) -> None:
    (answer,) = await said(client, *messages)
    assert answer.strip()
