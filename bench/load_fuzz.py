"""Sends broken messages, while other clients talk that must not notice anything."""

import asyncio
import json
import random
import urllib.request
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import websockets

from bench.load_speakers import LEAST_GAP_FRAMES, scrape
from tests.support.fuzz_messages import frames
from tests.support.fuzz_rest import fuzz_rest
from tests.support.message_schema import problem_with
from tests.support.sounds import clips, silence
from tests.support.talker import address_of, delete, new_session
from tests.support.workers import running_worker
from voxtral_worker.client import Response, VoxtralClient

MESSAGES = 20_000
SOCKETS = 8
TALKERS = 6
REST_EXAMPLES = 300
SETTINGS = {"MAX_SESSIONS": "10000", "RESPONSE_CACHE_SIZE": "0", "METRICS_PUBLIC": "true"}
TIMEOUT_S = 120.0
# Normal end, text that is not UTF-8, a frame that is too large.
CLOSES = (1000, 1007, 1009)
# Without a close frame: the worker does not read so large a frame to its end.
CLOSES_OVER_A_FRAME = (*CLOSES, 1006)


@dataclass
class Fuzzed:
    """What was sent and what came back; `problems` must stay empty."""

    sent: int = 0
    received: Counter[str] = field(default_factory=Counter)
    closes: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def hear(self, raw: str | bytes) -> dict[str, Any]:
        """Read a message of the worker, count it and check it."""
        message: dict[str, Any] = json.loads(raw)
        self.check(message)
        return message

    def check(self, message: dict[str, Any]) -> None:
        """Count a message of the worker, and check it."""
        problem = problem_with(message)
        if problem is not None:
            self.problems.append(problem)
        self.received[str(message.get("code", message["type"]))] += 1
        if message.get("code") == "PROCESSING_ERROR":
            self.problems.append(f"{message}")


async def fuzz(url: str, line: str, count: int, rng: random.Random, tally: Fuzzed) -> None:
    """Send so many frames to one session, over as many connections as needed.

    Raises what reading an answer raises, such as JSONDecodeError.
    """
    session_id = await new_session(url, max_length=8)
    coming = frames(count, rng)
    left = True
    while left:
        async with websockets.connect(address_of(url, line, session_id), max_size=None) as socket:
            reading = asyncio.create_task(_read(socket, tally))
            left, closes = await _send(socket, coming, tally)
            await socket.close()
            await asyncio.wait_for(reading, TIMEOUT_S)
        code = socket.close_code or 1006
        tally.closes[code] += 1
        if code not in (CLOSES_OVER_A_FRAME if closes else CLOSES):
            tally.problems.append(f"closed with {code}: {socket.close_reason}")
    await _is_still_there(url, line, session_id, tally)
    await delete(url, session_id)


async def _send(socket: Any, coming: Any, tally: Fuzzed) -> tuple[bool, bool]:
    """Whether there is more to send, and whether the last frame may have ended the connection."""
    for frame in coming:
        tally.sent += 1
        try:
            data = frame.data
            if frame.is_text and isinstance(data, str):
                data = data.encode("utf-8", "surrogatepass")
            async with asyncio.timeout(TIMEOUT_S):
                await socket.send(data, text=frame.is_text)
        except websockets.ConnectionClosed:
            return True, True
        if frame.closes:
            return True, True
    return False, False


async def _read(socket: Any, tally: Fuzzed) -> None:
    last = 0
    try:
        async for raw in socket:
            message = tally.hear(raw)
            if message["type"] == "heartbeat" or "seq" not in message:
                continue
            # After a `resume`, messages come again with the numbers that they had.
            if last and message["seq"] > last + 1:
                tally.problems.append(f"after {last} came {message}")
            last = max(last, message["seq"])
    except websockets.ConnectionClosed:
        return


async def _is_still_there(url: str, line: str, session_id: str, tally: Fuzzed) -> None:
    async with (
        asyncio.timeout(TIMEOUT_S),
        websockets.connect(address_of(url, line, session_id), max_size=None) as socket,
    ):
        await socket.send(json.dumps({"type": "control", "control_type": "ping"}))
        while tally.hear(await socket.recv())["type"] != "control":
            pass


async def talk(url: str, tally: Fuzzed) -> list[str]:
    """The answers of a separate session to a text, a spoken sentence and another text."""
    sentence = silence(30) + next(iter(clips().values())) + silence(LEAST_GAP_FRAMES)
    answers: list[str] = []
    async with (
        asyncio.timeout(TIMEOUT_S),
        VoxtralClient(url, temperature=0, max_length=16, mode="transcribe") as client,
        aclosing(client.events()) as events,
    ):
        for said in ("hello", sentence, "what time is it"):
            await (client.send_text(said) if isinstance(said, str) else client.send_audio(said))
            while not isinstance(event := await anext(events), Response):
                tally.check(event.message)
            tally.check(event.message)
            answers.append(event.text)
    return answers


async def beside(url: str, count: int, sockets: int, tally: Fuzzed) -> tuple[int, int]:
    """Fuzz on so many sockets while others talk. Returns their answers and the right ones."""
    alone = await talk(url, tally)
    lines = ("audio", "control") * sockets
    async with asyncio.TaskGroup() as group:
        fuzzing = [
            group.create_task(fuzz(url, lines[seed], count // sockets, random.Random(seed), tally))
            for seed in range(sockets)
        ]

        async def keep_talking() -> list[bool]:
            right = []
            while not all(task.done() for task in fuzzing):
                right.append(await talk(url, tally) == alone)
            return right

        talking = [group.create_task(keep_talking()) for _ in range(TALKERS)]
    outcomes = [is_right for task in talking for is_right in task.result()]
    return len(outcomes), sum(outcomes)


def is_at_rest(url: str) -> bool:
    """Whether there is no session, no socket, no sequence in the engine and no block in use."""
    samples = scrape(url)
    kept, free, total = (
        samples[f'voxtral_kv_blocks{{state="{state}"}}'] for state in ("kept", "free", "total")
    )
    held = ("voxtral_sessions_active", "websocket_connections_active")
    work = ("voxtral_generations_running", "voxtral_generations_waiting")
    return kept + free == total and not any(samples[name] for name in held + work)


async def until_at_rest(url: str) -> dict[str, float]:
    """The worker's figures once it is idle. Raises TimeoutError if it never is."""
    async with asyncio.timeout(TIMEOUT_S):
        while not await asyncio.to_thread(is_at_rest, url):
            await asyncio.sleep(0.1)
    # The worker counts its tasks four times a second.
    await asyncio.sleep(1.0)
    return scrape(url)


def run(count: int = MESSAGES, rest_examples: int = REST_EXAMPLES) -> None:
    """Print the tables. Raises RuntimeError if something was wrong."""
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with running_worker(log, **SETTINGS, LOG_FORMAT="json") as url:
            problems = asyncio.run(_sockets(url, count))
            problems += _rest(url, rest_examples)
        lines = log.read_text().splitlines()
    bad = [line for line in lines if _is_bad(line)]
    print(f"\nLog: {len(lines)} lines, {len(bad)} errors or tracebacks", flush=True)
    if problems or bad:
        raise RuntimeError("\n".join([*problems[:20], *bad[:20]]))


def _is_bad(line: str) -> bool:
    """Whether a line of the log reports an error, or is not one that the worker writes."""
    try:
        fields = json.loads(line)
    except ValueError:
        return True
    return fields["level"] in ("ERROR", "CRITICAL") or "traceback" in fields


async def _sockets(url: str, count: int) -> list[str]:
    # A short run first: caches and pools that it fills are not growth.
    await beside(url, count // 10, SOCKETS, Fuzzed())
    before = await until_at_rest(url)
    tally = Fuzzed()
    conversations, right = await beside(url, count, SOCKETS, tally)
    after = await until_at_rest(url)
    print("\n| messages | answers | not of the contract | conversations beside | right |")
    print("| --- | --- | --- | --- | --- |")
    print(f"| {tally.sent} | {tally.received.total()} | {len(tally.problems)}", end=" ")
    print(f"| {conversations} | {right} |")
    print(f"\nAnswers: {dict(tally.received.most_common())}; closed: {dict(tally.closes)}\n")
    print("| | before | after |\n| --- | --- | --- |")
    for name, metric, unit in (
        ("memory in use, MiB", "process_resident_memory_bytes", 2**20),
        # The KV cache is reserved at the start, and its memory is used block by block.
        ("memory reserved, MiB", "process_virtual_memory_bytes", 2**20),
        ("file descriptors", "process_open_fds", 1),
        ("tasks", "voxtral_event_loop_tasks", 1),
        ("sessions", "voxtral_sessions_active", 1),
        ("sockets", "websocket_connections_active", 1),
    ):
        print(f"| {name} | {before[metric] / unit:.0f} | {after[metric] / unit:.0f} |")
    problems = [] if right == conversations else ["somebody else's answers were not the same"]
    return tally.problems + problems


def _rest(url: str, examples: int) -> list[str]:
    tally = fuzz_rest(url, examples)
    print("\n| REST calls | answers by status | not of the description |\n| --- | --- | --- |")
    statuses = ", ".join(f"{status}: {n}" for status, n in sorted(tally.statuses.items()))
    print(f"| {tally.calls} | {statuses} | {len(tally.failures)} |", flush=True)
    with urllib.request.urlopen(f"{url}/ping", timeout=30) as answer:
        if answer.status != 200:
            return [*tally.failures, f"/ping says {answer.status}"]
    return tally.failures
