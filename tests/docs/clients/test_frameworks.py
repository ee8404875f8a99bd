"""The real packages against the worker, where `make clients` has installed them."""

import asyncio
from pathlib import Path

import pytest

from tests.support.embedded_server import EmbeddedServer
from voxtral_worker.settings import EMBEDDED_MODEL, REPOSITORY

INSTALLED = REPOSITORY / ".clients"
PROGRAMS = Path(__file__).parent / "frameworks"
CLIP = EMBEDDED_MODEL / "clips" / "turn-on-the-kitchen-light.wav"
FINE = "I am fine, thank you."
LIGHT = "You said: Turn on the kitchen light."
# Importing some of them takes a while on a busy machine.
WAIT_S = 170.0


async def run(*command: str) -> str:
    """What a client prints."""
    if not (INSTALLED / "bin" / "python").exists():
        pytest.skip("the frameworks are not installed: make clients")
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=INSTALLED
    )
    try:
        async with asyncio.timeout(WAIT_S):
            said, wrong = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, wrong.decode()[-3000:]
    return said.decode()


async def python(program: str, *arguments: str) -> str:
    return await run(str(INSTALLED / "bin" / "python"), str(PROGRAMS / program), *arguments)


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("langchain", f"{FINE} | {FINE}"),
        ("pydantic_ai", f"{FINE} | You are welcome."),
        ("litellm", f"{FINE} | {FINE}"),
        ("smolagents", FINE),
        ("openai_agents", f"{FINE} | You are welcome."),
        ("openai_agents_responses", f"{FINE} | You are welcome."),
        ("langchain_responses", f"{FINE} | {FINE}"),
        ("livekit", f"Hello, how are you? | {FINE}"),
        ("pipecat", FINE),
    ],
)
async def test_chat_of_a_framework_is_answered(
    aliased: EmbeddedServer, name: str, said: str
) -> None:
    assert said in await python("http_clients.py", name, f"{aliased.url}/v1")


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("langchain", "calls: 1, structured: Device"),
        ("pydantic_ai", "calls: 1, output: Device, went on with the result"),
        ("openai_agents", "calls: 2, handed to lamp, output: Device"),
        ("openai_agents_responses", "calls: 2, handed to lamp, output: Device"),
        ("instructor", "Device, Device"),
    ],
)
async def test_tools_and_forms_of_a_framework_work(
    aliased: EmbeddedServer, name: str, said: str
) -> None:
    assert said in await python("tool_clients.py", name, f"{aliased.url}/v1")


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("openai_agents", LIGHT),
        ("livekit", f" | Turn on the kitchen light. | {LIGHT} | errors: []"),
        ("livekit_stt", "Turn on the kitchen light."),
        ("pipecat", LIGHT),
        ("pipecat_stt", "<Turn on the kitchen light.>"),
    ],
)
async def test_a_live_conversation_of_a_framework_is_answered(
    aliased: EmbeddedServer, name: str, said: str
) -> None:
    assert said in await python("socket_clients.py", name, f"{aliased.url}/v1", str(CLIP))


TURNS = {
    "turn-on-the-kitchen-light": "you said turn on the kitchen light",
    "stop-the-music": "you said stop the music",
    "call-home-on-friday": "you said call home on friday",
    "go-forward-two-meters": "you said go forward two meters",
}
CLIPS = [str(CLIP.with_stem(name)) for name in TURNS]


@pytest.mark.timeout(200)
@pytest.mark.parametrize("name", ["openai_agents", "livekit", "pipecat"])
async def test_a_framework_holds_a_conversation_that_is_spoken_on_both_sides(
    aliased: EmbeddedServer, name: str
) -> None:
    """What it would have played has the right words, by a recogniser that is not the worker's."""
    heard = await python("spoken_clients.py", name, f"{aliased.url}/v1", *CLIPS)
    assert heard == " | ".join([*TURNS.values(), "calls: 0", "errors: []"]) + "\n"


@pytest.mark.timeout(200)
@pytest.mark.parametrize("name", ["openai_agents", "livekit", "pipecat"])
async def test_a_framework_runs_a_function_in_the_middle_of_a_spoken_turn(
    aliased: EmbeddedServer, name: str
) -> None:
    heard = await python("spoken_clients.py", name, f"{aliased.url}/v1", "--tool", CLIPS[0])
    answer, _, rest = heard.partition(" | ")
    assert rest == "calls: 1 | errors: []\n"
    # Pipecat greets before, and what is heard of its answer is not always the one word.
    assert answer == "done" or (name == "pipecat" and answer != "(nothing)")


async def node(program: str, *arguments: str) -> str:
    if not (INSTALLED / "node_modules").exists():
        pytest.skip("the frameworks of Node are not installed: make clients")
    # A module finds its packages next to itself.
    there = INSTALLED / program
    there.write_bytes((PROGRAMS / program).read_bytes())
    return await run("node", str(there), *arguments)


async def test_both_apis_of_the_ai_sdk_are_answered(aliased: EmbeddedServer) -> None:
    said = await node("ai_sdk.mjs", f"{aliased.url}/v1")
    assert said.splitlines() == [f"{FINE} | {FINE}"] * 2


async def test_a_live_conversation_of_the_agents_sdk_in_javascript_is_answered(
    aliased: EmbeddedServer, tmp_path: Path
) -> None:
    from tests.docs.clients.frameworks.socket_clients import sound

    clip = tmp_path / "clip.pcm"
    clip.write_bytes(sound(str(CLIP)))
    said = await node("agents.mjs", f"{aliased.url}/v1", str(clip))
    assert f"completed {FINE}" in said
    assert f"completed {LIGHT}" in said
