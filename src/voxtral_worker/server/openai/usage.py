"""The usage of an answer, in the three shapes of OpenAI's API."""

import math
from collections.abc import Sequence
from typing import Any

from voxtral_worker.engine.request import Usage


def chat_usage(usages: Sequence[Usage]) -> dict[str, Any]:
    """The usage of a chat completion. Its choices share one prompt, which counts once."""
    usage = Usage(
        usages[0].prompt_tokens,
        sum(each.completion_tokens for each in usages),
        usages[0].cached_tokens,
        usages[0].audio_tokens,
    )
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {
            "audio_tokens": usage.audio_tokens,
            "cached_tokens": usage.cached_tokens,
        },
    }


def transcription_usage(usage: Usage) -> dict[str, Any]:
    """The usage of a transcription in tokens."""
    return {
        "type": "tokens",
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "input_token_details": {
            "audio_tokens": usage.audio_tokens,
            "text_tokens": usage.prompt_tokens - usage.audio_tokens,
        },
    }


def duration_usage(duration_s: float) -> dict[str, Any]:
    """The usage of a transcription in seconds."""
    return {"type": "duration", "seconds": math.ceil(duration_s)}
