"""What real frameworks have sent, word for word, is understood without one error.

The recordings were made by `recorder.py` between the package and a worker.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import websockets

from tests.support.embedded_server import EmbeddedServer, silence, spoken
from tests.support.recorder import AUDIO
from tests.support.talker import Talker
from voxtral_worker.settings import REPOSITORY

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json"))
LIGHT = "Turn on the kitchen light."
# What the embedded model says to a tool's result.
DONE = "Done."
TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
CHUNK_BYTES = 9600


def recording(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_text())
    return read


def calls(kind: str) -> list[Any]:
    """Every call of a kind, by the name of its recording."""
    return [
        pytest.param(call, id=f"{path.stem}-{number}")
        for path in RECORDED
        for number, call in enumerate(recording(path)["calls"])
        if kind in call
    ]


def told(data: str) -> Iterator[dict[str, Any]]:
    """The objects of an answer, whole or streamed."""
    if not data.startswith("data: "):
        yield json.loads(data)
        return
    for line in data.splitlines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


@pytest.mark.parametrize("call", calls("body"))
async def test_each_call_is_answered(aliased: EmbeddedServer, call: dict[str, Any]) -> None:
    url = aliased.url + call["path"]
    async with aiohttp.ClientSession() as http, http.post(url, json=call["body"]) as answer:
        data = await answer.text()
        assert answer.status == 200, data
    if call["path"] == "/v1/responses":
        *_, last = told(data)
        response = last.get("response", last)
        assert response["status"] == "completed"
        assert response["output"][0]["content"][0]["text"].strip()
        return
    texts: dict[int, str] = {}
    for choice in [choice for part in told(data) for choice in part["choices"]]:
        said = choice.get("message", choice.get("delta")).get("content") or ""
        texts[choice["index"]] = texts.get(choice["index"], "") + said
    assert len(texts) == (call["body"].get("n") or 1)
    assert all(text.strip() for text in texts.values())


@pytest.mark.parametrize("call", calls("socket"))
async def test_each_live_conversation_goes_on_to_its_end(
    aliased: EmbeddedServer, call: dict[str, Any]
) -> None:
    transcribes = "intent=transcription" in call["socket"]
    calls_tools = any(is_result(event) for event in call["events"])
    async with websockets.connect(aliased.ws_url + call["socket"], max_size=None) as socket:
        talker = Talker(socket)
        await talker.until("session.created")
        called: str | None = None
        said = ""
        for event in call["events"]:
            if "item_id" in event:
                # It was the name of an item of another session.
                continue
            if is_result(event):
                # The framework answered a call of another session, and named its items.
                called = called or (await response(talker))["output"][-1]["call_id"]
                item = {**event["item"], "call_id": called}
                await talker.send({**event, "item": item, "previous_item_id": None})
                called = None
            elif event["type"] != "input_audio_buffer.append":
                await talker.send(event)
            elif event["audio"] == AUDIO:
                await speak(talker, event)
                said = ""
            if event["type"] == "response.create":
                made = await response(talker)
                called = made["output"][-1].get("call_id")
                said = "" if called else answer(made)
        if transcribes:
            assert (await talker.until(TRANSCRIBED))["transcript"] == LIGHT
        elif calls_tools:
            assert said == DONE
        else:
            assert LIGHT in answer(await response(talker))
    kinds = [event["type"] for event in talker.seen]
    assert "error" not in kinds
    assert kinds.count("session.updated") == [e["type"] for e in call["events"]].count(
        "session.update"
    )
    assert ("response.created" in kinds) is not transcribes


def is_result(event: dict[str, Any]) -> bool:
    return bool(event.get("item", {}).get("type") == "function_call_output")


async def response(talker: Talker) -> dict[str, Any]:
    made: dict[str, Any] = (await talker.until("response.done"))["response"]
    assert made["status"] == "completed"
    return made


def answer(made: dict[str, Any]) -> str:
    (part,) = made["output"][0]["content"]
    text = str(part["transcript"] if part["type"] == "output_audio" else part["text"])
    assert text.strip()
    return text


async def speak(talker: Talker, event: dict[str, Any]) -> None:
    data = silence(0.5) + spoken("turn-on-the-kitchen-light") + silence(1)
    for start in range(0, len(data), CHUNK_BYTES):
        audio = base64.b64encode(data[start : start + CHUNK_BYTES]).decode()
        await talker.send({**event, "audio": audio})


def rows() -> list[list[str]]:
    """The table of docs/clients.md."""
    lines = (REPOSITORY / "docs" / "clients.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if len(row) == 5 and row[4].endswith(".json`")]


def test_every_row_of_the_table_has_its_recording_and_every_recording_its_row() -> None:
    kept = {row[4].strip("`"): row for row in rows()}
    assert kept.keys() == {path.name for path in RECORDED}
    for path in RECORDED:
        made = recording(path)
        assert f"`{made['package']}` {made['version']}" in kept[path.name][0]


def test_what_was_recorded_is_pinned() -> None:
    python = (REPOSITORY / "builder" / "requirements-clients.txt").read_text().split()
    node = json.loads((Path(__file__).parent / "frameworks" / "package.json").read_text())
    pins = {*python, *(f"{name}=={version}" for name, version in node["dependencies"].items())}
    made = {f"{r['package']}=={r['version']}" for r in map(recording, RECORDED)}
    assert made <= pins
