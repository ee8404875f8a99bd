"""The two clients of the documented API, extracted from the document, run unmodified."""

import asyncio
import contextlib
import io
import json
import os
import re
import sys
import time
import types
import wave
from typing import Any

import pytest
from playwright.async_api import async_playwright

from tests.support.chromium import ARGUMENTS, CHROMIUM
from voxtral_worker.settings import EMBEDDED_MODEL, REPOSITORY

DOCUMENT = REPOSITORY.parent / "shared" / "voxtral_streaming_api.md"
CLIP = EMBEDDED_MODEL / "clips" / "turn-on-the-kitchen-light.wav"
SAID = "You said: Turn on the kitchen light."
WAIT_S = 30.0


def need(is_there: bool, what: str) -> None:
    """Skip where a part is missing; where everything must be there, fail."""
    if not is_there and os.environ.get("CI") == "true":
        pytest.fail(what)
    if not is_there:
        pytest.skip(what)


@pytest.fixture(scope="module")
def document() -> str:
    if not DOCUMENT.is_file():
        pytest.skip(f"the documented API is not beside the repository: {DOCUMENT.name}")
    return DOCUMENT.read_text()


def block(document: str, language: str, holding: str) -> str:
    """The code block of a language that holds a text."""
    found = [
        code
        for code in re.findall(rf"```{language}\n(.*?)```", document, re.DOTALL)
        if holding in code
    ]
    assert len(found) == 1
    return str(found[0])


class FakePyAudio(types.ModuleType):
    """A microphone that plays a file once, and is silent from then on."""

    paInt16 = 8  # noqa: N815 - the name of the library

    def __init__(self, data: bytes) -> None:
        super().__init__("pyaudio")
        self.source = io.BytesIO(data)

    def PyAudio(self) -> "FakePyAudio":  # noqa: N802 - the name of the library
        return self

    def open(self, **_: Any) -> "FakePyAudio":
        return self

    def read(self, frames: int) -> bytes:
        return self.source.read(2 * frames).ljust(2 * frames, b"\0")

    def stop_stream(self) -> None:
        self.source.seek(0)

    close = terminate = stop_stream


async def test_the_python_client_of_the_document_gets_its_answers(
    document: str, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = block(document, "python", "class VoxtralPythonClient")
    with wave.open(str(CLIP)) as file:
        monkeypatch.setitem(sys.modules, "pyaudio", FakePyAudio(file.readframes(file.getnframes())))
    # The example forgets one import, and its last line starts a loop of its own.
    names: dict[str, Any] = {"time": time}
    exec(compile(code.replace("asyncio.run(main())", ""), "document", "exec"), names)
    heard = io.StringIO()
    with contextlib.redirect_stdout(heard):
        client = names["VoxtralPythonClient"](worker)
        await client.create_session()
        await client.connect()
        await client.send_text("Hello, how are you?")
        async with asyncio.timeout(WAIT_S):
            while heard.getvalue().count("Response:") < 1:
                await asyncio.sleep(0.05)
        talking = asyncio.create_task(client.stream_audio())
        async with asyncio.timeout(WAIT_S):
            while heard.getvalue().count("Response:") < 2:
                await asyncio.sleep(0.05)
        talking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await talking
        await client.websocket.close()
        await asyncio.sleep(0)
    lines = heard.getvalue().splitlines()
    assert lines == ["Response: I am fine, thank you.", f"Response: {SAID}"]


async def test_the_javascript_client_of_the_document_gets_its_answers(
    document: str, worker: str
) -> None:
    need(CHROMIUM is not None, "this test needs a browser: apt-get install chromium")
    code = block(document, "javascript", "class VoxtralClient")
    library = code.split("// Usage")[0]
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = await browser.new_page()
        heard: list[str] = []
        page.on("console", lambda message: heard.append(message.text))
        await page.goto(f"{worker}/openapi.json")
        await page.evaluate(
            f"""async () => {{
                {library}
                const client = new VoxtralClient({json.dumps(worker)});
                await client.createSession();
                await client.connect();
                window.client = client;
                client.sendTextMessage("Hello, how are you today?");
            }}"""
        )
        await wait_for(heard, "Response: I am fine, thank you.")
        await page.evaluate("window.client.startAudioStreaming()")
        await wait_for(heard, f"Response: {SAID}")
        await browser.close()
    assert not [line for line in heard if line.startswith("Error")]


async def test_the_retry_snippet_of_the_document_connects_once_it_can(
    document: str, worker: str
) -> None:
    need(CHROMIUM is not None, "this test needs a browser: apt-get install chromium")
    library = block(document, "javascript", "class VoxtralClient").split("// Usage")[0]
    snippet = block(document, "javascript", "connectWithRetry")
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = await browser.new_page()
        heard: list[str] = []
        page.on("console", lambda message: heard.append(message.text))
        await page.goto(f"{worker}/openapi.json")
        state = await page.evaluate(
            f"""async () => {{
                {library}
                {snippet}
                const client = new VoxtralClient({json.dumps(worker)});
                await client.createSession();
                const reachable = client.serverUrl;
                client.serverUrl = "http://[no address";
                setTimeout(() => {{ client.serverUrl = reachable; }}, 500);
                await connectWithRetry();
                return client.websocket.readyState;
            }}"""
        )
        await browser.close()
    assert state == 1
    attempts = [line for line in heard if line.startswith("Connection attempt")]
    assert attempts == ["Connection attempt 1 failed, retrying in 2000ms"]


async def wait_for(heard: list[str], line: str) -> None:
    """Until the page has logged a line."""
    async with asyncio.timeout(WAIT_S):
        while line not in heard:
            await asyncio.sleep(0.05)
