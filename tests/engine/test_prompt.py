"""Prompts are token for token those of mistral-common."""

import base64
import io
from typing import Any

import numpy as np
import pytest
import soundfile

from voxtral_worker.engine.conversation import (
    AssistantTurn,
    Audio,
    Conversation,
    Exchange,
    UserTurn,
)
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.prompt import PromptEncoder
from voxtral_worker.errors import TooLarge

ROOM = 100_000


@pytest.fixture(scope="module")
def encoder(loaded: LoadedModel) -> PromptEncoder:
    return PromptEncoder(loaded.tokenizer)


def tone(seconds: float) -> np.ndarray:
    time_s = np.arange(int(seconds * 16_000)) / 16_000
    return (0.3 * np.sin(2 * np.pi * 220 * time_s)).astype(np.float32)


def audio_part(samples: np.ndarray) -> dict[str, Any]:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format="wav")
    return {"type": "audio", "base64": base64.b64encode(buffer.getvalue()).decode()}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def reference(loaded: LoadedModel, messages: list[dict[str, Any]]) -> list[int]:
    inputs = loaded.processor.apply_chat_template(messages)
    return inputs["input_ids"][0].tolist()


def test_a_text_prompt_is_that_of_the_library(loaded: LoadedModel, encoder: PromptEncoder) -> None:
    conversation = Conversation(
        UserTurn(("and you?",)),
        (Exchange(UserTurn(("Hello [INST] there",)), AssistantTurn(text="Hi. ")),),
        "Be kind.",
    )
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello [INST] there"},
        {"role": "assistant", "content": "Hi. "},
        {"role": "user", "content": "and you?"},
    ]
    assert list(encoder.encode(conversation, ROOM).ids) == reference(loaded, messages)


def test_an_audio_prompt_over_many_turns_is_that_of_the_library(
    loaded: LoadedModel, encoder: PromptEncoder
) -> None:
    first, second, third = tone(1.0), tone(31.0), tone(0.4)
    answer = tuple(loaded.tokenizer.encode("You said: Go.", bos=False, eos=False))
    conversation = Conversation(
        UserTurn((Audio(second), "and", Audio(third))),
        (Exchange(UserTurn((Audio(first), "what?")), AssistantTurn(answer)),),
    )
    messages = [
        {"role": "user", "content": [audio_part(first), text_part("what?")]},
        {"role": "assistant", "content": "You said: Go."},
        {"role": "user", "content": [audio_part(second), text_part("and"), audio_part(third)]},
    ]
    prompt = encoder.encode(conversation, ROOM)
    assert list(prompt.ids) == reference(loaded, messages)
    assert [audio.windows for audio in prompt.audio] == [1, 2, 1]


@pytest.mark.parametrize("language", [None, "en"])
def test_a_transcription_prompt_is_that_of_the_library(
    loaded: LoadedModel, encoder: PromptEncoder, language: str | None
) -> None:
    samples = tone(2.0)
    inputs = loaded.processor.apply_transcription_request(
        audio=[samples], model_id="v", format=["wav"], sampling_rate=16_000, language=language
    )
    conversation = Conversation(UserTurn((Audio(samples),)), transcribe=True, language=language)
    assert list(encoder.encode(conversation, ROOM).ids) == inputs["input_ids"][0].tolist()


def test_a_system_prompt_beside_audio_opens_the_first_user_turn(
    loaded: LoadedModel, encoder: PromptEncoder
) -> None:
    samples = tone(1.0)
    messages = [{"role": "user", "content": [text_part("Be kind.\n\n"), audio_part(samples)]}]
    conversation = Conversation(UserTurn((Audio(samples),)), system_prompt="Be kind.")
    assert list(encoder.encode(conversation, ROOM).ids) == reference(loaded, messages)


def test_the_oldest_exchanges_go_when_the_context_is_full(encoder: PromptEncoder) -> None:
    exchange = Exchange(UserTurn((Audio(tone(0.1)),)), AssistantTurn(text="Yes."))
    conversation = Conversation(UserTurn((Audio(tone(0.1)),)), (exchange,) * 5)
    whole = len(encoder.encode(conversation, ROOM).ids)
    prompt = encoder.encode(conversation, whole - 1)
    assert prompt.trimmed == 1
    assert len(prompt.audio) == 5
    assert encoder.encode(conversation, 800).trimmed == 4


def test_a_last_turn_that_is_too_long_is_refused(encoder: PromptEncoder) -> None:
    conversation = Conversation(UserTurn(("hello " * 50,)), (), None)
    with pytest.raises(TooLarge, match="room for 20"):
        encoder.encode(conversation, 20)
    spoken = Conversation(UserTurn((Audio(tone(1.0)),)), transcribe=True)
    with pytest.raises(TooLarge):
        encoder.encode(spoken, 300)
