"""What an answer cost, in OpenAI's three shapes."""

import math
from typing import Any

from voxtral_worker.engine.request import Usage


def chat_usage(usage: Usage, audio_tokens: int) -> dict[str, Any]:
    """As chat completions tell it."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {
            "audio_tokens": audio_tokens,
            "cached_tokens": usage.cached_tokens,
        },
    }


def transcription_usage(usage: Usage, audio_tokens: int) -> dict[str, Any]:
    """As transcriptions tell it."""
    return {
        "type": "tokens",
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "input_token_details": {
            "audio_tokens": audio_tokens,
            "text_tokens": usage.prompt_tokens - audio_tokens,
        },
    }


def duration_usage(duration_s: float) -> dict[str, Any]:
    """As transcriptions tell it by time."""
    return {"type": "duration", "seconds": math.ceil(duration_s)}
