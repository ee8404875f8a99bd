"""Turns that continue at random moments while their line is cut: what is left behind?

`python -m tests.support.reopenings 1000` does so a thousand times.
"""

import asyncio
import random
import sys
from collections import Counter
from dataclasses import dataclass, field

from tests.support.cuttable_line import CuttableLine
from tests.support.ports import free_port
from tests.support.running_server import RunningServer
from tests.support.wire_talks import Loudness, sound
from voxtral_worker.client import Failure, Response, Retry, Status, VoxtralClient
from voxtral_worker.client.events import Event
from voxtral_worker.settings import Settings

WAIT_S = 60.0


@dataclass
class Left:
    """What was heard, and what a session still holds when everything is over."""

    reopened: int = 0
    cuts: int = 0
    # The last responses of turns, and those that are not the last.
    answers: dict[str, Response] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)
    holds: dict[str, int] = field(default_factory=dict)
    history: int = 0

    def take(self, event: Event) -> None:
        """Count one event of the session."""
        match event:
            case Status(status="turn_reopened"):
                self.reopened += 1
                self.answers.pop(str(event.turn_id), None)
            case Status(status="speech_started"):
                if event.turn_id in self.answers:
                    self.odd.append(f"{event.turn_id} began twice")
            case Response():
                if event.turn_id in self.answers:
                    self.odd.append(f"{event.turn_id} was answered twice")
                self.answers[str(event.turn_id)] = event
            case Failure():
                self.odd.append(f"{event.turn_id}: {event.error}")


async def reopen(count: int, rng: random.Random) -> Left:
    """Continue turns until `count` have been reopened."""
    server = RunningServer(
        Settings(host="127.0.0.1", port=free_port(), rate_limit_enabled=False),
        Loudness(),  # type: ignore[arg-type]
    )
    server.become_ready()
    line = CuttableLine(server.settings.port)
    left = Left()
    try:
        url = await line.listen()
        retry = Retry(first_ms=5.0)
        async with VoxtralClient(url, retry=retry, transcript=True) as client:

            async def read() -> None:
                async for event in client.events():
                    left.take(event)

            reader = asyncio.create_task(read())
            while left.reopened < count:
                await _go_on(server, line, client, left, rng)
            server.engine.holds = False
            await client.send_audio(sound((False, 80)))
            await _settle(server, left)
            session = server.thread.service.sessions.registry.get(str(client.session_id))
            left.history = len(session.session.history)
            left.holds = _held(session.driver)
            reader.cancel()
    finally:
        await line.close()
        await asyncio.to_thread(server.stop)
    return left


async def _go_on(
    server: RunningServer,
    line: CuttableLine,
    client: VoxtralClient,
    left: Left,
    rng: random.Random,
) -> None:
    """Some speech and a pause; the answer is held in its middle, or whole; the line may be cut."""
    server.engine.holds = rng.random() < 0.5
    pause = rng.choice([8, 16, 20, 30, 40, 50])
    await client.send_audio(sound((True, rng.randint(4, 25)), (False, pause)))
    if rng.random() < 0.1:
        left.cuts += 1
        line.cut()
    await asyncio.sleep(rng.choice([0.0, 0.0, 0.002, 0.01]))
    if rng.random() < 0.3:
        _finish_held(server)


def _finish_held(server: RunningServer) -> None:
    held, server.engine.held = server.engine.held, []
    for generation in held:
        server.engine.finish(generation, ("held ", "back"))


async def _settle(server: RunningServer, left: Left) -> None:
    """Wait until every turn has its answer."""
    async with asyncio.timeout(WAIT_S):
        while True:
            _finish_held(server)
            before = len(left.answers), left.reopened
            await asyncio.sleep(0.3)
            (session,) = server.thread.service.sessions.registry.everyone()
            is_quiet = (
                not session.session.queue_size and (len(left.answers), left.reopened) == before
            )
            if is_quiet and not _held(session.driver)["transcripts"]:
                return


def _held(driver: object) -> dict[str, int]:
    session = driver.session  # type: ignore[attr-defined]
    listening = session.listening
    return {
        "generations": len(driver._generations),  # type: ignore[attr-defined]
        "queue": session.queue_size,
        "frames": len(listening.heard),
        "kept turns": listening.turns.reopening.bytes,
        "transcripts": listening.turns.transcripts.bytes,
        "partials": listening.turns.partials.bytes,
        "guesses": listening.turns.speculator.bytes,
        "unanswered": len(session.inputs.pending),
    }


def main() -> None:
    """Do it as often as the command line says."""
    left = asyncio.run(reopen(int(sys.argv[1]), random.Random(1)))
    reasons = Counter(answer.finish_reason for answer in left.answers.values())
    sys.stdout.write(
        f"{left.reopened} reopenings, {left.cuts} cuts, {len(left.answers)} turns: {reasons}\n"
    )
    sys.stdout.write(f"odd: {left.odd}; history: {left.history}; held: {left.holds}\n")


if __name__ == "__main__":
    main()
