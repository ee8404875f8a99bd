"""Every code block of the documents does what it says, run as a reader would run it."""

import argparse
import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import websockets
from playwright.async_api import Page, async_playwright

from tests.support.chromium import ARGUMENTS, CHROMIUM
from tests.support.doc_blocks import Block, all_blocks
from tests.support.talker import Talker, create
from voxtral_worker.__main__ import make_parser as serve_parser
from voxtral_worker.client.arguments import make_parser
from voxtral_worker.jobs.schema import read_input
from voxtral_worker.server.native.messages import CONTROL_TYPES
from voxtral_worker.settings import REPOSITORY

URL_OF_DOCUMENTS = "http://localhost:8000"
WAIT_S = 60
ANSWERS = {"Hello! How can I help you?", "You said: Turn on the kitchen light."}


def test_every_block_is_of_a_kind_that_is_run() -> None:
    kinds = {"sh", "json", "python", "javascript", "html"}
    assert [str(block) for block in all_blocks() if block.language not in kinds] == []
    assert {block.language for block in all_blocks()} == kinds


def test_every_block_of_json_is_of_a_direction() -> None:
    directions = {"Client to server", "Server to client"}
    assert {block.section for block in all_blocks("json")} == directions


# Shell


@pytest.mark.parametrize("block", all_blocks("sh"), ids=str)
def test_a_shell_block_holds_commands_that_work(block: Block, worker: str) -> None:
    lines = block.code.replace("\\\n", " ").splitlines()
    commands = [words for line in lines if (words := shlex.split(line, comments=True))]
    assert commands
    for words in commands:
        check_command([word.replace(URL_OF_DOCUMENTS, worker) for word in words], worker)


def check_command(words: list[str], worker: str) -> None:
    """Run one command, or as much of it as ends by itself."""
    match words:
        case ["git", "clone", "$REPOSITORY", folder] | ["cd", folder]:
            # The folder is entered under the name that it was given.
            assert folder == "voxtral-worker"
        case ["make", *targets]:
            # It says what it would do, or that there is no such target.
            run(["make", "--dry-run", *targets])
        case ["curl", *_]:
            run([*words, "--silent", "--show-error", "--fail-with-body"])
        case ["voxtral", "talk", *_]:
            # A microphone has no end.
            assert make_parser().parse_args(words[1:]).command
        case ["voxtral", "bench", *_]:
            short = ["--seconds", "1", "--sessions", "1", "--pause", "0.6"]
            run([*VOXTRAL, *words[1:], *short, "--url", worker])
        case ["voxtral", "serve", *options]:
            # It ends at a signal only.
            assert serve_parser("voxtral serve").parse_args(options)
        case ["pip", "install", package]:
            assert re.fullmatch(r"voxtral-worker(\[(worker|runpod|talk)\])?", package)
        case ["voxtral", "speak", text, "-o", name]:
            with TemporaryDirectory() as folder:
                path = Path(folder, name)
                said = [*VOXTRAL, "speak", text, "-o", str(path), "--url", worker]
                subprocess.run(said, check=True, timeout=60)
                assert path.stat().st_size > 16_000
        case ["voxtral", *rest]:
            run([*VOXTRAL, *rest, "--url", worker])
        case ["python", "handler.py", *options]:
            check_job(options)
        case _:
            pytest.fail(f"nobody knows how to check: {shlex.join(words)}")


VOXTRAL = [sys.executable, "-m", "voxtral_worker.client.command"]


def run(words: list[str]) -> None:
    done = subprocess.run(
        words, cwd=REPOSITORY, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def check_job(options: list[str]) -> None:
    assert (REPOSITORY / "handler.py").is_file()
    reader = argparse.ArgumentParser(exit_on_error=False)
    reader.add_argument("--test_input", default=(REPOSITORY / "test_input.json").read_text())
    assert read_input(json.loads(reader.parse_args(options).test_input)["input"])


# Python


SPEAK = """
import asyncio, inspect, sys, wave

def chunks():
    with wave.open({clip!r}) as file:
        while data := file.readframes(1600):
            yield data

async def spaced():
    for chunk in chunks():
        yield chunk
        await asyncio.sleep(0.01)

if inspect.iscoroutinefunction(talk):
    asyncio.run(talk(spaced()))
else:
    talk(chunks())
"""
CLIP = "models/voxtral-tiny/clips/turn-on-the-kitchen-light.wav"


@pytest.mark.parametrize("block", all_blocks("python"), ids=str)
def test_a_python_block_prints_the_answer(block: Block, worker: str) -> None:
    code = block.code.replace(URL_OF_DOCUMENTS, worker)
    if re.search(r"^(async )?def talk\(", code, re.MULTILINE):
        code += SPEAK.format(clip=CLIP)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    expected = {"set_device"} if block.document == "docs/tools.md" else ANSWERS
    assert done.stdout.strip() in expected


# JavaScript


@asynccontextmanager
async def open_page() -> AsyncIterator[Page]:
    if CHROMIUM is None and os.environ.get("CI") != "true":
        pytest.skip("this test needs a browser: apt-get install chromium")
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield await browser.new_page()
        await browser.close()


@pytest.mark.parametrize("block", all_blocks("javascript"), ids=str)
async def test_a_javascript_block_gets_its_answer_in_a_browser(
    block: Block, worker: str, spoken: bytes
) -> None:
    host = worker.removeprefix("http://")
    code = block.code.replace(URL_OF_DOCUMENTS, worker).replace("localhost:8000", host)
    async with open_page() as page:
        heard: list[str] = []
        page.on("console", lambda message: heard.append(message.text))
        await page.goto(f"{worker}/openapi.json")
        if "new WebSocket" in code:
            # What the reader does with the socket is left to the reader.
            await page.evaluate(f"async () => {{ {code}\n window.socket = socket; }}")
            await page.wait_for_function("socket.readyState === WebSocket.OPEN")
            await page.evaluate(
                "(samples) => socket.send(new Int16Array(samples).buffer)",
                list(memoryview(spoken).cast("h")),
            )
        else:
            await page.add_script_tag(type="module", content=code)
        async with asyncio.timeout(WAIT_S):
            while not any(line.startswith(tuple(ANSWERS)) for line in heard):
                await asyncio.sleep(0.05)


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[str]:
    """The URL of a server of the files in `tmp_path`: pages of an origin of their own."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("block", all_blocks("html"), ids=str)
async def test_a_page_of_html_hears_and_answers_from_an_origin_of_its_own(
    block: Block, worker: str, origin: str, tmp_path: Path
) -> None:
    (tmp_path / "page.html").write_text(block.code.replace(URL_OF_DOCUMENTS, worker), "utf-8")
    async with open_page() as page:
        await page.goto(f"{origin}/page.html")
        await page.get_by_role("button").click()
        answer = page.get_by_text("You said: Turn on the kitchen light.")
        await answer.wait_for(timeout=1000 * WAIT_S)


# JSON from the client


ANSWER_OF = {
    "text_input": {"type": "text_response", "text": "Hello! How can I help you?"},
    "config_update": {"type": "status", "status": "config_updated"},
    "ping": {"type": "control", "control_type": "pong"},
    "get_stats": {"type": "status"},
    "cancel": {"type": "status", "status": "cancelled"},
    "end_turn": {"type": "status", "status": "no_speech"},
    "clear_history": {"type": "status", "status": "history_cleared"},
    "resume": {"type": "status", "status": "resumed"},
    # No turn was spoken here; `test_messages.py` has one that was.
    "played": {"type": "error", "code": "INVALID_REQUEST"},
    # No call waits here; with one it is tried among the messages of the worker.
    "tool_result": {"type": "error", "code": "CALL_NOT_FOUND"},
}


def examples() -> list[dict[str, object]]:
    blocks = [block for block in all_blocks("json") if block.section == "Client to server"]
    return [message for block in blocks for message in block.messages()]


def kind_of(message: dict[str, object]) -> str:
    return str(message.get("control_type", message["type"]))


def test_every_message_of_a_client_has_an_example() -> None:
    assert {kind_of(message) for message in examples()} == set(ANSWER_OF)
    assert set(ANSWER_OF) == {*CONTROL_TYPES, "text_input", "config_update", "tool_result"}


@pytest.mark.parametrize("message", examples(), ids=kind_of)
async def test_a_message_of_a_client_gets_its_answer(
    message: dict[str, object], worker: str
) -> None:
    session = await create(worker, json={"config": {"temperature": 0}})
    address = worker.replace("http", "ws", 1) + session["websocket_url"]
    async with websockets.connect(address) as socket:
        talker = Talker(socket)
        await talker.status("connected")
        await talker.send(message)
        expected = ANSWER_OF[kind_of(message)]
        answer = await talker.until(str(expected["type"]), **expected)
        errors = [seen for seen in talker.seen if seen["type"] == "error"]
        assert errors == ([answer] if expected["type"] == "error" else [])
    assert answer.get("request_id") == message.get("request_id")
    if "config" in message:
        config: Any = message["config"]
        assert config.items() <= answer["config"].items()
