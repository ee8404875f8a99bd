"""How often the embedded model calls the right tool through the whole server, by voice and by text.

A voice that was never trained on (flite's rms) speaks commands, and sentences that no offered tool
fits. Each is a session of its own with tools in another order, with other schemas, and in words
that the recipe does not have; each call gets a result, whose answer is checked as well.
"""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from builder.voxtral_tiny import voices
from builder.voxtral_tiny.tools import DONE, FAILED, expected_call
from builder.voxtral_tiny.vocabulary import DEVICES, ROOMS, expected_answer, sentence, text_answer
from tests.support.workers import running_worker
from voxtral_worker.client import Failure, Response, ToolCall, VoxtralClient

# As many commands as sentences that no tool fits.
SPOKEN, TYPED = 200, 100
CHUNK_BYTES = 3200
TIMEOUT_S = 60.0
COMMANDS = ("devices", "timers", "calls")
NO_COMMANDS = ("openings", "days", "digits", "numbers", "moves", "fixed")
Json = dict[str, Any]
# What the recipe's own offers do not say.
_WORDS = {
    "set_device": ["Lets you operate what is plugged in.", "Home automation", "Lamps and more."],
    "set_timer": ["Start a timer.", "Kitchen clock", "Rings when the time has passed."],
    "dial": ["Call a number.", "Telephone", "Rings somebody up by number."],
}
_FIELDS: dict[str, dict[str, list[Json]]] = {
    "set_device": {
        "room": [{"type": "string"}, {"type": "string", "enum": ROOMS}],
        "device": [{"type": "string"}, {"type": "string", "enum": DEVICES}],
        "on": [{"type": "boolean"}, {"type": "boolean", "description": "true for on"}],
    },
    "set_timer": {
        "amount": [{"type": "integer"}, {"type": "integer", "minimum": 1}],
        "unit": [{"type": "string"}, {"type": "string", "enum": ["seconds", "minutes", "hours"]}],
    },
    "dial": {"digits": [{"type": "string"}, {"type": "string", "pattern": "^[0-9]+$"}]},
}
_OTHERS: dict[str, Json] = {
    "water_plants": {"litres": {"type": "number"}},
    "set_blinds": {"room": {"type": "string"}, "height": {"type": "integer"}},
    "get_joke": {},
    "lock_car": {"doors": {"type": "boolean"}},
    "dial_tone": {"seconds": {"type": "integer"}},
    "find_recipe": {"dish": {"type": "string"}, "guests": {"type": "integer"}},
}
_RESULTS = {
    DONE: ["done", '{"ok": true}', "The light is on.", '{"state": "on"}'],
    FAILED: ['{"error": "no answer from the tool"}', '{"error": "not found"}', "failed"],
}


@dataclass(frozen=True)
class Case:
    """What is said or typed with these tools, what is to be called, and what comes of the call."""

    words: str
    is_spoken: bool
    tools: list[Json]
    call: tuple[str, Json] | None
    result: str
    answer: str


def offer(rng: random.Random, known: list[str], others: int) -> list[Json]:
    """Tools in random order and wording."""
    tools = []
    for name in known:
        fields = list(_FIELDS[name])
        rng.shuffle(fields)
        tools.append(_tool(rng, name, {f: rng.choice(_FIELDS[name][f]) for f in fields}))
    tools += [_tool(rng, name, _OTHERS[name]) for name in rng.sample(sorted(_OTHERS), others)]
    rng.shuffle(tools)
    return tools


def _tool(rng: random.Random, name: str, properties: Json) -> Json:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    said = rng.choice(_WORDS.get(name, [name.replace("_", " "), ""]))
    function = {"name": name, "description": said, "parameters": parameters}
    return {"type": "function", "function": function}


def cases(seed: int = 77) -> list[Case]:
    """All that is asked."""
    rng = random.Random(seed)
    made = []
    for number in range(2 * (SPOKEN + TYPED)):
        is_spoken = number // 2 < SPOKEN
        # What no tool fits is half a command whose own tool is not offered, half another sentence.
        fits = number % 2 == 0
        is_command = fits or rng.random() < 0.5
        words = sentence(rng, rng.choice(COMMANDS if is_command else NO_COMMANDS))
        call = expected_call(words)
        own = call[0] if call else None
        known = [name for name in _FIELDS if name == own or rng.random() < 0.6]
        if not fits:
            call, known = None, [name for name in known if name != own]
        tools = offer(rng, known, rng.choice([0, 1, 1, 2]) if known else 2)
        answer = rng.choice([DONE, FAILED])
        made.append(Case(words, is_spoken, tools, call, rng.choice(_RESULTS[answer]), answer))
    return made


async def ask(url: str, case: Case, audio: bytes = b"") -> tuple[list[tuple[str, Json]], str]:
    """The calls that are made, and what is said in the end.

    `audio` of 16-bit samples is what is heard if the case is spoken.
    """
    async with (
        asyncio.timeout(TIMEOUT_S),
        VoxtralClient(url, tools=case.tools, barge_in=False, temperature=0) as client,
    ):
        if case.is_spoken:
            silence = np.zeros(8000, "<i2").tobytes()
            stream = silence + audio + silence + silence
            for start in range(0, len(stream), CHUNK_BYTES):
                await client.send_audio(stream[start : start + CHUNK_BYTES])
        else:
            await client.send_text(case.words)
        calls: list[tuple[str, Json]] = []
        async for event in client.events():
            match event:
                case ToolCall(name=name, arguments=arguments):
                    calls.append((name, arguments))
                    await client.send_tool_result(event, case.result)
                case Failure(error=error):
                    return calls, f"error: {error}"
                case Response(text=text, finish_reason=reason) if reason != "tool_calls":
                    return calls, text
        raise RuntimeError("the session has ended")


async def _all(url: str, asked: list[Case]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for case in asked:
        audio = voices.speak(case.words).astype("<i2").tobytes() if case.is_spoken else b""
        calls, said = await ask(url, case, audio)
        way = "spoken" if case.is_spoken else "typed"
        name = f"{way}, no tool fits" if case.call is None else f"{way} commands"
        wanted = [] if case.call is None else [case.call]
        counts[name] += 1
        counts[f"{name}: right"] += calls == wanted
        if calls != wanted:
            print(f"  {name}: {case.words!r} called {calls} and said {said!r}")
        if case.call is not None and calls == wanted:
            counts["answers to results"] += 1
            counts["answers to results: right"] += said == case.answer
        if case.call is None:
            answer = expected_answer(case.words) if case.is_spoken else text_answer(case.words)
            counts[f"{way} answers without a call"] += 1
            counts[f"{way} answers without a call: right"] += said == answer
    return counts


def run() -> dict[str, float]:
    """Print the table; returns the share of what was right by name."""
    with running_worker() as url:
        counts = asyncio.run(_all(url, cases()))
    print("\nTools through the server, voice held out of training (flite rms)\n")
    print("| asked | right | of | |\n| --- | --- | --- | --- |")
    names = [name for name in counts if not name.endswith(": right")]
    for name in names:
        right = counts[f"{name}: right"]
        print(f"| {name} | {right} | {counts[name]} | {100 * right / counts[name]:.1f} % |")
    return {name: counts[f"{name}: right"] / counts[name] for name in names}
