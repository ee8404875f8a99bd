"""The Python client against a real worker."""

import asyncio
import subprocess
import sys
import wave
from collections.abc import AsyncIterator, Callable

import pytest

from tests.support.cuttable_line import CuttableLine
from tests.support.ports import free_port
from tests.support.running_server import RunningServer
from voxtral_worker.client import Delta, Response, Retry, Status, VoxtralClient, VoxtralError
from voxtral_worker.settings import EMBEDDED_MODEL

CLIP = EMBEDDED_MODEL / "clips" / "turn-on-the-kitchen-light.wav"
Start = Callable[..., RunningServer]
SAID = "You said: Turn on the kitchen light."


def audio() -> bytes:
    with wave.open(str(CLIP)) as file:
        sound: bytes = file.readframes(file.getnframes())
    return bytes(9600) + sound + bytes(9600)


async def chunks(cut_after: int = -1, line: CuttableLine | None = None) -> AsyncIterator[bytes]:
    data = audio()
    for number, start in enumerate(range(0, len(data), 3200)):
        if number == cut_after and line is not None:
            line.cut()
        yield data[start : start + 3200]
        await asyncio.sleep(0.01)


async def test_a_spoken_sentence_is_answered_word_by_word(worker: str) -> None:
    async with VoxtralClient(worker, temperature=0) as voxtral:
        events = [event async for event in voxtral.stream(chunks())]
    [response] = [event for event in events if isinstance(event, Response)]
    assert response.text == SAID
    assert "".join(event.text for event in events if isinstance(event, Delta)) == SAID
    assert response.turn_id is not None


async def test_a_cut_line_is_resumed_without_losing_or_doubling_audio(worker: str) -> None:
    line = CuttableLine(int(worker.rpartition(":")[2]))
    async with VoxtralClient(await line.listen(), temperature=0) as voxtral:
        events = [event async for event in voxtral.stream(chunks(8, line))]
    await line.close()
    resumed = [e for e in events if isinstance(e, Status) and e.status == "resumed"]
    assert len(resumed) == 2
    assert resumed[1].message["audio_bytes_received"] <= 8 * 3200
    assert [event.text for event in events if isinstance(event, Response)] == [SAID]
    numbers = [event.message["seq"] for event in events if "seq" in event.message]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_a_session_is_opened_by_the_socket_on_the_worker_that_it_reaches(
    start_server: Start,
) -> None:
    """Behind one address are two workers, and every new line reaches the other one."""
    servers = [start_server(), start_server()]
    line = CuttableLine(*(int(server.url.rsplit(":", 1)[1]) for server in servers))
    async with VoxtralClient(await line.listen(), silence_ms=300) as voxtral:
        events = [event async for event in voxtral.stream(chunks())]
    assert [event.text for event in events if isinstance(event, Response)] == ["You said so."]
    assert [len(server.engine.requests) for server in servers] == [1, 0]
    await line.close()


async def test_a_config_that_no_address_has_room_for_is_used_all_the_same(
    start_server: Start,
) -> None:
    server = start_server()
    async with VoxtralClient(server.url, system_prompt="Be kind. " * 999) as voxtral:
        events = [event async for event in voxtral.stream(chunks())]
    assert [event.text for event in events if isinstance(event, Response)] == ["You said so."]
    assert server.engine.requests[0].conversation.system_prompt == "Be kind. " * 999


@pytest.mark.parametrize("long", ["", "x" * 9999])
async def test_a_config_that_cannot_be_used_is_told_before_anything_is_sent(
    worker: str, long: str
) -> None:
    with pytest.raises(VoxtralError, match="silence_ms.*100 to 3000") as told:
        async with VoxtralClient(worker, silence_ms=5, system_prompt=long):
            pass
    assert told.value.code == "INVALID_REQUEST"


async def test_a_worker_with_keys_takes_its_key_alone(start_server: Start) -> None:
    server = start_server(api_keys=("a-key",))
    async with VoxtralClient(server.url, token="a-key") as voxtral:
        events = [event async for event in voxtral.stream(chunks())]
    assert [event.text for event in events if isinstance(event, Response)] == ["You said so."]
    with pytest.raises(VoxtralError, match="(?i)credential|key|token"):
        async with VoxtralClient(server.url, token="another"):
            pass


def test_the_client_needs_no_torch() -> None:
    code = "import sys, voxtral_worker.client; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_a_source_of_audio_that_fails_ends_the_stream_with_its_error(worker: str) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield bytes(3200)
        raise OSError("no microphone")

    async with VoxtralClient(worker) as voxtral:
        with pytest.raises(OSError, match="no microphone"):
            async for _ in voxtral.stream(failing()):
                pass


async def test_a_worker_that_is_not_there_is_told() -> None:
    with pytest.raises(VoxtralError, match="cannot be reached"):
        async with VoxtralClient(f"http://127.0.0.1:{free_port()}", retry=Retry(most=0)):
            pass


async def test_a_worker_that_stays_away_is_given_up(worker: str) -> None:
    line = CuttableLine(int(worker.rsplit(":", 1)[1]))
    retry = Retry(most=2, first_ms=1)
    async with VoxtralClient(await line.listen(), retry=retry) as voxtral:
        with pytest.raises(VoxtralError, match="gave up after 2 retries: .* cannot be reached"):
            async for _ in voxtral.stream(chunks()):
                await line.close()


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://localhost", "http://", "http://a b", "http://[::1", "http://a:x"],
)
def test_what_is_no_address_is_told_before_it_is_called(url: str) -> None:
    with pytest.raises(VoxtralError, match="is not the address of a worker"):
        VoxtralClient(url)
