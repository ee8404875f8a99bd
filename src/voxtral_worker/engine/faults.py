"""Work for several sequences at once, of which only what fails alone is failed."""

import traceback
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")
Failures = list[tuple[T, Exception]]


def attempt(items: list[T], work: Callable[[list[T]], object]) -> Failures[T]:
    """Do `work` on all items together; where that fails, on each alone.

    Returns the items that failed alone, with the reason. Where memory was short, one alone is
    tried once more. `work` is repeated, so it changes nothing until it has succeeded.
    """
    error = _error_of(items, work)
    if error is None:
        return []
    is_short = isinstance(error, torch.OutOfMemoryError)
    if is_short:
        _give_memory_back()
    if len(items) > 1:
        # One of them may be at fault, or all of them together be too many.
        return [failure for item in items for failure in attempt([item], work)]
    if is_short:
        error = _error_of(items, work)
    return [] if error is None else [(items[0], error)]


def _error_of(items: list[T], work: Callable[[list[T]], object]) -> Exception | None:
    try:
        work(items)
    except Exception as error:  # noqa: BLE001 - the engine step: one of the named places
        _let_go(error)
        return error
    return None


def _let_go(error: BaseException) -> None:
    """The frames of failed work hold its tensors; its lines are kept for the log."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__


def _give_memory_back() -> None:
    # Does nothing where no GPU is used.
    torch.cuda.empty_cache()
