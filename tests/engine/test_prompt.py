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
from voxtral_worker.engine.layout import SAMPLED
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
    return [int(token) for token in inputs["input_ids"][0]]


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
    messages: list[dict[str, Any]] = [
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


def test_rows_that_are_left_out_leave_their_positions_behind(
    loaded: LoadedModel, encoder: PromptEncoder
) -> None:
    heard = UserTurn(("first", Audio(tone(0.1)), "and", Audio(tone(31.0))))
    history = (Exchange(heard, AssistantTurn(text="Yes.")),)
    conversation = Conversation(UserTurn((Audio(tone(29.9)), "go on")), history)
    whole = encoder.encode(conversation, ROOM)
    prompt = PromptEncoder(loaded.tokenizer, SAMPLED).encode(conversation, ROOM)
    assert len(prompt.ids) < len(whole.ids)
    assert [whole.ids[position] for position in prompt.positions] == list(prompt.ids)
    assert prompt.positions[-1] == len(whole.ids) - 1 == len(prompt.ids) + prompt.skipped - 1
    weighted = [row for row, weight in enumerate(prompt.log_weights) if weight]
    assert prompt.weighted_from == weighted[0]
    assert {prompt.ids[row] for row in weighted} == {prompt.audio_token_id}
    # Fifteen of the first piece and of the second; the third is nearly full.
    assert len(weighted) == 2 * 15
    assert prompt.audio_rows == prompt.ids.count(prompt.audio_token_id)
    keys = [key for key in prompt.keys if key < 0]
    assert len(set(keys)) == len(keys) == prompt.audio_rows


def test_a_sampled_prompt_is_bound_by_positions_and_by_rows(loaded: LoadedModel) -> None:
    encoder = PromptEncoder(loaded.tokenizer, SAMPLED)
    exchange = Exchange(UserTurn((Audio(tone(0.1)),)), AssistantTurn(text="Yes."))
    conversation = Conversation(UserTurn((Audio(tone(0.1)),)), (exchange,) * 5)
    whole = encoder.encode(conversation, ROOM)
    positions, rows = len(whole.ids) + whole.skipped, len(whole.ids)
    assert positions > 6 * 375 > rows
    assert encoder.encode(conversation, positions, rows).trimmed == 0
    assert encoder.encode(conversation, positions - 1, rows).trimmed == 1
    assert encoder.encode(conversation, positions, rows - 1).trimmed == 1
    with pytest.raises(TooLarge, match="the context has room for 300"):
        encoder.encode(Conversation(exchange.user), 300, 300)
    with pytest.raises(TooLarge, match="the KV cache has room for 20"):
        encoder.encode(Conversation(exchange.user), 1000, 20)


class CountingTokenizer:
    """A word is a token; counts the texts it was given."""

    bos_id, eos_id = 1, 2
    version = "v7"

    def __init__(self) -> None:
        self.texts = 0

    def encode(self, s: str, bos: bool, eos: bool) -> list[int]:
        self.texts += 1
        return [100 + len(word) for word in s.split()]

    def get_special_token(self, s: str) -> int:
        return 10 + len(s)


@pytest.mark.parametrize("system", [None, "Be kind."])
def test_a_history_that_does_not_fit_is_tokenised_at_most_once(system: str | None) -> None:
    tokenizer = CountingTokenizer()
    exchange = Exchange(UserTurn(("one two three",)), AssistantTurn(text="four five"))
    conversation = Conversation(UserTurn(("six",)), (exchange,) * 1000, system)
    prompt = PromptEncoder(tokenizer).encode(conversation, 5000)
    assert 0 < prompt.trimmed < 1000
    assert len(prompt.ids) <= 5000
    parts = 2 * 1000 + 1
    assert tokenizer.texts <= parts + 2


@pytest.mark.parametrize("oldest_has_audio", [False, True])
@pytest.mark.parametrize("room", range(20, 800, 13))
def test_as_many_of_the_newest_exchanges_are_kept_as_fit(oldest_has_audio: bool, room: int) -> None:
    encoder = PromptEncoder(CountingTokenizer())
    heard = (Audio(tone(0.1)),) if oldest_has_audio else ("once upon a time",)
    history = (
        Exchange(UserTurn(heard), AssistantTurn(text="yes")),
        *[Exchange(UserTurn(("one two three",)), AssistantTurn(text="four"))] * 20,
    )
    conversation = Conversation(UserTurn(("six",)), history, "Be kind to everybody.")
    prompt = encoder.encode(conversation, room)
    assert len(prompt.ids) <= room
    if prompt.trimmed:
        one_more = Conversation(
            conversation.user, history[prompt.trimmed - 1 :], conversation.system_prompt
        )
        assert len(encoder.encode(one_more, 10_000).ids) > room
    alone = Conversation(conversation.user, history[prompt.trimmed :], conversation.system_prompt)
    assert encoder.encode(alone, 10_000).ids == prompt.ids
