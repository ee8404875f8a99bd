"""The options of a session, typed, so that a type checker finds a wrong name or type."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict


class Options(TypedDict, total=False):
    """All are optional. docs/protocol.md describes each one, with its limits and its default."""

    vad_sensitivity: int
    temperature: float
    max_length: int
    top_p: float
    stop: str | list[str]
    seed: int | None
    mode: Literal["chat", "transcribe"]
    language: str | None
    system_prompt: str | None
    silence_ms: int
    sample_rate: int
    encoding: Literal["pcm_s16le", "opus", "mulaw", "alaw"]
    stream: bool
    interim: bool
    barge_in: bool
    voice: str | None
    output_sample_rate: int
    output_encoding: Literal["pcm_s16le", "mulaw", "alaw", "opus"]
    barge_in_ms: int
    turn_detection: Literal["silence", "semantic"]
    eagerness: Literal["low", "medium", "high", "auto"]
    reopen_ms: int
    transcript: bool
    # Functions that the client runs, or definitions in OpenAI's shape.
    tools: Sequence[Callable[..., Any] | dict[str, Any]]
    tool_choice: str | dict[str, Any]
    parallel_tool_calls: bool
    tool_timeout_ms: int
