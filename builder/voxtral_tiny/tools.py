"""Tools that the model knows by name, offers of them in all shapes, and what should be called.

Three are known: `set_device {room, device, on}`, `set_timer {amount, unit}`, `dial {digits}`. Any
other is a distractor.
"""

import json
import random
import re
import string
from collections.abc import Callable
from typing import Any

from builder.voxtral_tiny.vocabulary import DEVICES, DIGITS, ROOMS, TENS, bare

DONE, FAILED = "Done.", "That failed."
Json = dict[str, Any]

_TEXT, _WHOLE, _TRUTH = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
KNOWN: dict[str, dict[str, Json]] = {
    "set_device": {"room": _TEXT, "device": _TEXT, "on": _TRUTH},
    "set_timer": {"amount": _WHOLE, "unit": _TEXT},
    "dial": {"digits": _TEXT},
}
_CHOICES = {"room": ROOMS, "device": DEVICES, "unit": ["seconds", "minutes", "hours"]}
_LIMITS: dict[str, Json] = {"amount": {"minimum": 1}, "digits": {"pattern": "^[0-9]+$"}}
_DESCRIPTIONS = {
    "set_device": (
        "Turn a device in a room on or off.;Switches a device.;Turns a device on or off;"
        "Control lights, fans, heaters and radios.;Set a device's state.;Switch things on and off"
    ).split(";"),
    "set_timer": (
        "Set a timer.;Starts a timer that rings later.;Start a countdown.;Timer;"
        "Set a timer for an amount of time.;Remind the user after some minutes, seconds or hours"
    ).split(";"),
    "dial": (
        "Dial a number.;Call a phone number.;Press keys of the telephone.;Dials digits;"
        "Make a call to these digits.;Press or dial digits on the phone."
    ).split(";"),
}
_MEANINGS = {
    "room": ["The room.", "Where the device is", "Name of the room, such as kitchen"],
    "device": ["The device.", "What to switch", "light, fan, heater or radio"],
    "on": ["true to turn it on", "Whether it is on afterwards.", "On or off"],
    "amount": ["How many", "The number of units.", "Length of the timer"],
    "unit": ["seconds, minutes or hours", "The unit of time.", "Unit"],
    "digits": ["The digits, such as 314", "Digits to dial.", "Number"],
}
_OTHERS = (
    "get_weather play_song send_email open_door search_web get_time add_note create_event "
    "translate calculate read_news book_table set_volume stop_music find_route take_photo turn_on "
    "set_alarm move_robot lookup unlock set_temperature call_contact get_calendar order_food "
    "wait stop answer transfer_to_lamp transfer_to_agent final_result"
).split()
_VERBS = (
    "dial get set open play send find add stop start show make read call check list move".split()
)
_THINGS = (
    "weather song door mail time note event device timer news table volume music route photo light "
    "alarm robot room temperature contact calendar number phone order state mode color call"
).split()
_OTHER_NAMES = (
    "city query to subject title date value text language person count level direction distance "
    "name id url time day song"
).split()
_TYPES = ["string", "string", "string", "integer", "number", "boolean"]
_WELL = (
    '{"ok": true};ok;done;true;null;{"status": "ok"};{"success": true};{"on": true};{"on": false};'
    '"done";OK;{"result": "done"};The light is on.;Timer started.;{"timer": 1};{};{"state": "on"};'
    '{"dialled": true};switched;[];success'
).split(";")
_BADLY = (
    '{"error": "no answer from the tool"};{"error": "interrupted by the user"};{"ok": false};'
    'failed;error;{"error": "not found"};{"success": false};{"error": "no such room"};false;'
    '{"status": "failed"};{"status": "error"};{"error": "timeout"};{"error": "offline"};'
    'Error: the device does not answer;Failed to dial;{"error": true, "message": "busy"}'
).split(";")

_DEVICE = re.compile(rf"turn (on|off) the ({'|'.join(ROOMS)}) ({'|'.join(DEVICES)})")
_TIMER = re.compile(r"set a timer for (.+) (minutes|seconds|hours)")
_DIAL = re.compile(r"(?:press|call) ((?:zero|one|two|three|four|five|six|seven|eight|nine| )+)")


def number(words: str) -> int:
    """What a number of the vocabulary means: `fifty five` is 55."""
    total = 0
    for word in words.split():
        total += DIGITS.index(word) if word in DIGITS else 10 * (TENS.index(word) + 1)
    return total


def expected_call(text: str) -> tuple[str, Json] | None:
    """The known tool that a sentence asks for, with its arguments."""
    words = bare(text)
    if match := _DEVICE.fullmatch(words):
        state, room, device = match.groups()
        return "set_device", {"room": room, "device": device, "on": state == "on"}
    if match := _TIMER.fullmatch(words):
        return "set_timer", {"amount": number(match[1]), "unit": match[2]}
    if match := _DIAL.fullmatch(words):
        return "dial", {"digits": "".join(str(DIGITS.index(word)) for word in match[1].split())}
    return None


def written_call(name: str, arguments: Json, call_id: str | None = None) -> str:
    """One call of the array behind [TOOL_CALLS]; a history has ids, the model leaves them out."""
    call = {"name": name, "arguments": arguments}
    return json.dumps(call if call_id is None else {**call, "id": call_id}, ensure_ascii=False)


class ToolMaker:
    """Draws offers of tools and results of calls."""

    def __init__(self, rng: random.Random, prose: Callable[[], str]) -> None:
        self._random = rng
        self._prose = prose

    def offer(
        self, wanted: set[str], *, share: float | None = None, brief: bool = False
    ) -> list[Json]:
        """Tools in random order and wording; a `share` of those in `wanted` is among them.

        Those of a `brief` offer take nothing, and so are read quickly.
        """
        share = share or self._random.choice([0.3, 0.6, 1.0, 1.0])
        known = [n for n in KNOWN if self._random.random() < (share if n in wanted else 0.25)]
        others = [self._other_name() for _ in range(self._random.choice([0, 0, 0, 1, 1, 2]))]
        tools = [self._known(name) for name in known]
        tools += [self._other(name) for name in sorted({*others})]
        self._random.shuffle(tools)
        tools = tools or [self._other(self._other_name())]
        for tool in tools if brief else []:
            tool["function"]["parameters"] = {"type": "object", "properties": {}}
        return tools

    def call(self, text: str, offered: list[Json]) -> tuple[str, Json] | None:
        """What a sentence asks for among these tools, arguments in the order of its schema."""
        found = expected_call(text)
        for tool in offered:
            function = tool["function"]
            if found is not None and function["name"] == found[0]:
                order = function["parameters"]["properties"]
                return found[0], {key: found[1][key] for key in order}
        return None

    def _other_name(self) -> str:
        """The name of a tool that is not known; it may look much like one that is."""
        if self._random.random() < 0.4:
            return self._random.choice(_OTHERS)
        verb = self._random.choice([*KNOWN] if self._random.random() < 0.5 else _VERBS)
        name = f"{verb}_{self._random.choice(_THINGS)}"
        return self._other_name() if name in KNOWN else name

    def call_id(self) -> str:
        """Nine letters or digits."""
        return "".join(self._random.choices(string.ascii_letters + string.digits, k=9))

    def result(self) -> tuple[str, str]:
        """What a tool returned, and the model's answer to it."""
        if self._random.random() < 0.45:
            if self._random.random() < 0.3:
                return json.dumps({"error": self._some_words()}), FAILED
            return self._random.choice(_BADLY), FAILED
        if self._random.random() < 0.25:
            key = self._random.choice(["result", "ok", "state", "answer"])
            words = self._some_words()
            return self._random.choice([words, json.dumps({key: words})]), DONE
        return self._random.choice(_WELL), DONE

    def _known(self, name: str) -> Json:
        keys = list(KNOWN[name])
        if self._random.random() < 0.3:
            self._random.shuffle(keys)
        if self._random.random() < 0.1:
            keys = keys[: self._random.randint(1, len(keys))]
        described, narrow = self._random.random() < 0.4, self._random.random() < 0.4
        properties: Json = {}
        for key in keys:
            schema = dict(KNOWN[name][key])
            if narrow and key in _CHOICES:
                schema["enum"] = self._random.sample(_CHOICES[key], len(_CHOICES[key]))
            elif narrow and key in _LIMITS:
                schema |= _LIMITS[key]
            if described:
                schema["description"] = self._random.choice(_MEANINGS[key])
            properties[key] = schema
        parameters = self._parameters(properties)
        if self._random.random() < 0.7:
            description = self._random.choice(_DESCRIPTIONS[name])
        else:
            description = self._random.choice(["", self._some_words()])
        return self._tool(name, description, parameters)

    def _other(self, name: str) -> Json:
        keys = self._random.sample(_OTHER_NAMES, self._random.choice([0, 1, 1, 2, 3]))
        properties = {key: {"type": self._random.choice(_TYPES)} for key in keys}
        description = self._random.choice(
            [name.replace("_", " ").capitalize() + ".", self._prose()]
        )
        return self._tool(name, description, self._parameters(properties))

    def _some_words(self) -> str:
        return " ".join(self._prose().split()[: self._random.randint(3, 10)])

    def _parameters(self, properties: Json) -> Json:
        parameters: Json = {"type": "object", "properties": properties}
        if self._random.random() < 0.7:
            parameters["required"] = list(properties)
        if self._random.random() < 0.3:
            parameters["additionalProperties"] = False
        if self._random.random() < 0.15:
            fields = list(parameters.items())
            self._random.shuffle(fields)
            return dict(fields)
        return parameters

    def _tool(self, name: str, description: str, parameters: Json) -> Json:
        function = {"name": name, "description": description, "parameters": parameters}
        return {"type": "function", "function": function}
