"""Reads what a caller sent, and makes one error of all that is wrong with it."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from pydantic import TypeAdapter, ValidationError

from voxtral_worker.errors import BadInput, WorkerError, shown
from voxtral_worker.values.may import MAY_BE, TOLD
from voxtral_worker.values.model import MAX_TOLD, FromCaller, validate

T = TypeVar("T")
Place: TypeAlias = tuple[int | str, ...]


@dataclass(frozen=True)
class Problem:
    """What is wrong with one field; the caller gets the `error`."""

    field: str
    error: WorkerError
    # Whether its value is not one that it may have.
    is_value: bool = False


def read(
    kind: type[T] | TypeAdapter[T],
    value: object,
    before: str = "",
    *,
    at: Place = (),
    known: Any = None,
    refuse: Callable[[Iterator[Problem], int], WorkerError] | None = None,
) -> T:
    """A caller's value as a model. Raises BadInput, of the kind that the first bad field asks for.

    The error's sentence begins with `before`. `at` is where the value stands. `known` is what its
    validators may ask. `refuse` makes another error of the problems and their number.
    """
    try:
        return validate(kind, value, FromCaller(known))
    except ValidationError as error:
        wrong = error.errors(include_url=False)
    # There may be thousands. Few are named, and only those need a sentence.
    problems = (_problem(each, at) for each in wrong)
    if refuse is not None:
        raise refuse(problems, sum(1 + each.get("ctx", {}).get("more", 0) for each in wrong))
    found = list(problems)
    if isinstance(value, dict):
        # In the order in which the caller wrote them.
        places = {key: place for place, key in enumerate(value)}
        found.sort(
            key=lambda problem: places.get(re.split(r"[.\[]", problem.field)[0], len(places))
        )
    told = [problem.error.message for problem in found[:MAX_TOLD]]
    raise found[0].error.saying(before + "; ".join(told)) from None


def is_good(kind: TypeAdapter[Any], value: object) -> bool:
    """Whether a caller's value is one of these."""
    try:
        kind.validate_python(value, context=FromCaller())
    except ValidationError:
        return False
    return True


def _problem(wrong: Any, at: Place) -> Problem:
    field, value = _path((*at, *wrong["loc"])), wrong["input"]
    match wrong["type"]:
        case kind if kind == TOLD:
            return Problem(field, wrong["ctx"]["tell"](field, value))
        case kind if kind == MAY_BE:
            return Problem(field, _wrong(field, value, wrong["ctx"]["words"]), is_value=True)
        case "missing":
            return Problem(field, BadInput(f"{field} is missing"))
    # No model should let it come to this: its fields have words of their own.
    return Problem(field, BadInput(f"{field} is {shown(value)}, which cannot be used"))


def _wrong(field: str, value: object, words: str) -> BadInput:
    return BadInput(f"{field or 'it'} is {shown(value)}, but must be {words}")


def _path(loc: Place) -> str:
    """A place as callers name it: `messages[0].content`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc]
    return "".join(parts).removeprefix(".")
