"""Messages as no client should send them: random, cut, mutated field by field, out of order."""

import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.sounds import clips

CONTROLS = ("ping", "get_stats", "cancel", "end_turn", "clear_history", "resume")
CONFIG: dict[str, Any] = {
    "vad_sensitivity": 2, "temperature": 0.2, "max_length": 8, "top_p": 0.9, "mode": "chat",
    "stop": ["!"], "seed": 7,
    "language": "en", "system_prompt": "Be brief.", "silence_ms": 300, "sample_rate": 16_000,
    "encoding": "pcm_s16le", "stream": True, "interim": True, "barge_in": True,
}  # fmt: skip
SEEDS: tuple[dict[str, Any], ...] = (
    {"type": "text_input", "text": "hello", "timestamp": 1640995200.0, "request_id": "a1"},
    *({"type": "control", "control_type": name} for name in CONTROLS),
    {"type": "control", "control_type": "resume", "last_seq": 3},
    {"type": "config_update", "config": CONFIG},
    *({"type": "config_update", "config": {name: value}} for name, value in CONFIG.items()),
)
# Written as JSON by hand where Python has no such value.
VALUES = (
    "null", "true", "-1", "0", "0.5", "1e308", "1e999", "-1e999", "NaN", "Infinity", "9" * 400,
    "1" * 5000, '""', '" "', '"\\u0000"', '"\\ud800"', '"\\udfff\\ud800"', '"\u202e\u0000"',
    '"' + "é" * 300 + '"', '"' + "x" * 40_000 + '"', "[]", "{}", "[[[[]]]]", '{"a": {}}',
    '{"__class__": 1}', '"2"', '"chat"', '"ping"', "[1, 2]", "2.0",
)  # fmt: skip


@dataclass(frozen=True)
class Sent:
    """One frame. `closes`: the worker may end the connection over it."""

    data: str | bytes
    is_text: bool
    closes: bool = False


def mutations(seeds: Iterable[dict[str, Any]] = SEEDS) -> list[str]:
    """Every field of every good message, without it and with each bad value; each once."""
    return list(dict.fromkeys(_mutations(seeds)))


def _mutations(seeds: Iterable[dict[str, Any]]) -> Iterator[str]:
    for seed in seeds:
        for path in _paths(seed):
            yield _written(seed, path, None)
            yield from (_written(seed, path, value) for value in VALUES)


def _paths(message: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, value in message.items():
        yield (name,)
        if isinstance(value, dict):
            yield from ((name, *path) for path in _paths(value))


def _written(message: Any, path: tuple[str, ...], value: str | None) -> str:
    """The message as JSON with the field at `path` replaced, or left out for None."""
    fields = []
    for name, inner in message.items():
        text = json.dumps(inner)
        if name == path[0]:
            if len(path) > 1:
                text = _written(inner, path[1:], value)
            elif value is None:
                continue
            else:
                text = value
        fields.append(f"{json.dumps(name)}: {text}")
    return "{" + ", ".join(fields) + "}"


def _random_bytes(rng: random.Random) -> Sent:
    return Sent(rng.randbytes(rng.randrange(4000)), is_text=False)


def _spoken(rng: random.Random) -> Sent:
    """A whole sentence at once, so that there are turns to disturb."""
    return Sent(rng.choice(list(clips().values())), is_text=False)


def _random_text(rng: random.Random) -> Sent:
    text = "".join(chr(rng.randrange(0xD800)) for _ in range(rng.randrange(200)))
    return Sent(text, is_text=True)


def _cut(rng: random.Random) -> Sent:
    text = json.dumps(rng.choice(SEEDS))
    at = rng.randrange(len(text))
    return Sent(text[:at] + rng.choice(["", "\0", "}", text]), is_text=True)


def _nested(rng: random.Random) -> Sent:
    depth = rng.choice([10, 500, 5000, 100_000])
    opened, closed = rng.choice([("[", "]"), ('{"a":', "}")])
    inner = opened * depth + "1" + closed * rng.choice([0, depth])
    text = rng.choice([inner, f'{{"type": "config_update", "config": {{"top_p": {inner}}}}}'])
    return Sent(text, is_text=True)


def _doubled(rng: random.Random) -> Sent:
    one, other = (json.dumps(rng.choice(SEEDS)) for _ in range(2))
    return Sent(one[:-1] + ", " + other[1:], is_text=True)


def _control(rng: random.Random) -> Sent:
    return Sent(json.dumps({"type": "control", "control_type": rng.choice(CONTROLS)}), True)


def _mutated(rng: random.Random) -> Sent:
    seed = rng.choice(SEEDS)
    path = rng.choice(list(_paths(seed)))
    return Sent(_written(seed, path, rng.choice([None, *VALUES])), is_text=True)


def _other_encoding(rng: random.Random) -> Sent:
    """What is binary from now on is taken for something else: garbage for Opus, for instance."""
    config: dict[str, Any] = {
        "encoding": rng.choice(["pcm_s16le", "opus", "opus", "mulaw", "alaw"])
    }
    config |= rng.choice([{}, {"sample_rate": rng.choice([8000, 44_100, 48_000])}])
    return Sent(json.dumps({"type": "config_update", "config": config}), is_text=True)


def _invalid_utf8(rng: random.Random) -> Sent:
    text = json.dumps(rng.choice(SEEDS)).encode()
    bad = rng.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"])
    return Sent(text[:9] + bad + text[9:], is_text=True, closes=True)


def _too_large(rng: random.Random) -> Sent:
    size = rng.choice([(1 << 20) + 1, (1 << 20) + 1, (4 << 20) + 1])
    return Sent(bytes(size), is_text=rng.random() < 0.5, closes=size > 4 << 20)


KINDS: dict[Callable[[random.Random], Sent], float] = {
    _mutated: 40, _random_bytes: 20, _control: 10, _random_text: 8, _cut: 8, _doubled: 5,
    _spoken: 1, _other_encoding: 4, _nested: 3, _invalid_utf8: 0.5, _too_large: 0.1,
}  # fmt: skip


def frames(count: int, rng: random.Random) -> Iterator[Sent]:
    """So many frames: every mutation once, as far as they go, with random frames among them."""
    known = mutations()
    rng.shuffle(known)
    for _ in range(count):
        if known and rng.random() < 0.5:
            yield Sent(known.pop(), is_text=True)
        else:
            (kind,) = rng.choices(list(KINDS), weights=list(KINDS.values()))
            yield kind(rng)
