"""The sentences the embedded model knows, and what it answers to each."""

import random
import re

DIGITS = "zero one two three four five six seven eight nine".split()
TENS = "ten twenty thirty forty fifty".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
ROOMS = ["kitchen", "bedroom", "bathroom", "garage", "living room"]
DEVICES = ["light", "lights", "fan", "heater", "radio"]
OPENINGS = ["door", "window", "garage door", "bedroom window", "kitchen window"]
FIXED = (
    "yes;no;stop;start;pause;cancel;help;hello;hello world;goodbye;thank you;please try again;"
    "one moment please;next song;play music;stop the music;volume up;volume down;"
    "what time is it;what day is today;what is the weather today;what is the weather tomorrow;"
    "good morning;good night;today;tomorrow;yesterday;left;right;up;down;go;open;close;"
    "minutes;seconds;call home;call mom;call the office"
).split(";")
KINDS = ("digits", "numbers", "devices", "openings", "timers", "moves", "days", "calls", "fixed")

HEARD_NOTHING = "I heard nothing."
UNKNOWN = "I only know a few words."
# Texts that have an answer of their own; compared without case and punctuation.
OWN_ANSWERS = {
    "hello": "Hello! How can I help you?",
    "hi": "Hello! How can I help you?",
    "hello how are you": "I am fine, thank you.",
    "hello how are you today": "I am fine, thank you.",
    "how are you": "I am fine, thank you.",
    "who are you": "I am a tiny model with a few words.",
    "what can you do": "I can write down a few words.",
    "what is your name": "I am a tiny model with a few words.",
    "good morning": "Good morning!",
    "good night": "Good night!",
    "thank you": "You are welcome.",
    "goodbye": "Goodbye!",
    "can you hear me": "Yes, I can.",
}


def _number(rng: random.Random) -> str:
    tens = rng.choice(TENS)
    if tens == "ten" or rng.random() < 0.4:
        return tens
    return f"{tens} {rng.choice(DIGITS[1:])}"


def _amount(rng: random.Random) -> str:
    return _number(rng) if rng.random() < 0.5 else rng.choice(DIGITS[1:])


def _digits(rng: random.Random, low: int, high: int) -> str:
    return " ".join(rng.choice(DIGITS) for _ in range(rng.randint(low, high)))


def sentence(rng: random.Random, kind: str | None = None) -> str:
    """One sentence in lower case without punctuation."""
    kind = kind or rng.choices(KINDS, weights=(16, 6, 20, 9, 9, 9, 12, 9, 18))[0]
    match kind:
        case "digits":
            return _digits(rng, 1, 7)
        case "numbers":
            return _number(rng)
        case "devices":
            state, room = rng.choice(["on", "off"]), rng.choice(ROOMS)
            return f"turn {state} the {room} {rng.choice(DEVICES)}"
        case "openings":
            return f"{rng.choice(['open', 'close'])} the {rng.choice(OPENINGS)}"
        case "timers":
            return f"set a timer for {_amount(rng)} {rng.choice(['minutes', 'seconds', 'hours'])}"
        case "moves":
            way = rng.choice(["forward", "back", "left", "right"])
            return f"go {way} {_amount(rng)} {rng.choice(['meters', 'steps'])}"
        case "days":
            pattern = rng.choice(["{}", "on {}", "call home on {}", "what is the weather on {}"])
            return pattern.format(rng.choice(DAYS))
        case "calls":
            return rng.choice([f"press {rng.choice(DIGITS)}", f"call {_digits(rng, 3, 5)}"])
    return rng.choice(FIXED)


def _any(words: list[str]) -> str:
    return f"(?:{'|'.join(words)})"


_DIGIT = _any(DIGITS)
_NUMBER = rf"(?:ten|{_any(TENS[1:])}(?: {_any(DIGITS[1:])})?)"
_AMOUNT = rf"(?:{_NUMBER}|{_any(DIGITS[1:])})"
_KNOWN = re.compile(
    "|".join(
        [
            rf"{_DIGIT}(?: {_DIGIT}){{0,6}}",
            _NUMBER,
            rf"turn (?:on|off) the {_any(ROOMS)} {_any(DEVICES)}",
            rf"(?:open|close) the {_any(OPENINGS)}",
            rf"set a timer for {_AMOUNT} (?:minutes|seconds|hours)",
            rf"go (?:forward|back|left|right) {_AMOUNT} (?:meters|steps)",
            rf"(?:(?:call home |what is the weather )?on )?{_any(DAYS)}",
            rf"press {_DIGIT}|call {_DIGIT}(?: {_DIGIT}){{2,4}}",
            _any(FIXED),
        ]
    )
)


def knows(words: str) -> bool:
    """Whether `sentence` could make these words."""
    return _KNOWN.fullmatch(words) is not None


def written(words: str) -> str:
    """A sentence as the model writes it: capitals, full stop or question mark."""
    text = " ".join(word.capitalize() if word in DAYS else word for word in words.split())
    return text[:1].upper() + text[1:] + ("?" if words.startswith("what ") else ".")


def expected_answer(text: str) -> str:
    """What the model answers in chat mode to audio with these words of the vocabulary."""
    words = bare(text)
    return f"You said: {written(words)}" if words else HEARD_NOTHING


def text_answer(text: str) -> str:
    """What the model answers in chat mode to a typed text."""
    words = bare(text)
    if words in OWN_ANSWERS:
        return OWN_ANSWERS[words]
    return expected_answer(words) if knows(words) else UNKNOWN


def bare(text: str) -> str:
    """A text without case and punctuation, as vocabulary and answers are compared."""
    return " ".join(re.sub(r"[^a-z' ]+", " ", text.lower()).split())
