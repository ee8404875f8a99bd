"""Removes Markdown from a text that will be spoken.

Models write Markdown without being asked, and a voice would say "asterisk asterisk".
"""

import json
import re

_OBJECTS = re.compile(r"\s*\[?\s*\{")
_LINK = re.compile(r"!?\[([^\]\n]*)\]\([^)\n]*\)")
_LINE_MARKS = re.compile(r"^[ \t]*(?:#{1,6}|[-*+•]|>+)[ \t]+", re.MULTILINE)
_RULE = re.compile(r"^[ \t]*(?:[-*_][ \t]*){3,}$", re.MULTILINE)
_EMPHASIS = re.compile(r"(?<!\w)([*_]{1,3}|~~)(?=\S)(.+?)(?<=\S)\1(?!\w)")
_STRAY = re.compile(r"\*{2,}|_{2,}|~{2,}|`+")
_TABLE = re.compile(r"\|")


def as_spoken(text: str) -> str:
    """The words of a text, without Markdown. Empty for JSON.

    Markup may begin in one sentence and end in the next, so single marks are removed as well. JSON
    is the call of a tool that the model has written as text, and must not be read out.
    """
    if _is_json(text):
        return ""
    text = _LINK.sub(r"\1", text)
    text = _RULE.sub("", text)
    text = _LINE_MARKS.sub("", text)
    text = _EMPHASIS.sub(r"\2", text)
    text = _STRAY.sub("", text)
    return _TABLE.sub(",", text).strip()


def _is_json(text: str) -> bool:
    """Whether a text is an object or a list of objects."""
    if _OBJECTS.match(text) is None:
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
