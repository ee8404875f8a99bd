"""The embedded model's folder: what the worker loads, and what the model says."""

import json
import random
import stat
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from builder.voxtral_tiny.evaluation import Listener, surrounded
from builder.voxtral_tiny.model import sinusoids
from builder.voxtral_tiny.vocabulary import expected_answer, text_answer, written
from builder.voxtral_tiny.voices import SAMPLE_RATE, Samples

FOLDER = Path(__file__).resolve().parents[2] / "models" / "voxtral-tiny"
CLIPS: dict[str, str] = json.loads((FOLDER / "clips" / "index.json").read_text())
MIB = 1 << 20


@cache
def listener() -> Listener:
    torch.set_num_threads(2)
    return Listener(FOLDER)


def clip(name: str) -> Samples:
    samples, rate = soundfile.read(FOLDER / "clips" / name, dtype="float32")
    assert rate == SAMPLE_RATE
    return np.asarray(samples, np.float32)


def named(words: str) -> Samples:
    return clip({said: name for name, said in CLIPS.items()}[words])


def test_the_folder_is_small_and_readable_by_everyone() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 28 * MIB
    assert sum(path.stat().st_size for path in (FOLDER / "clips").iterdir()) < MIB
    assert all(path.stat().st_mode & stat.S_IROTH for path in files)


def test_the_licence_of_the_encoder_is_beside_it() -> None:
    text = (FOLDER / "LICENSE-whisper").read_text("utf-8")
    assert "Copyright (c) 2022 OpenAI" in text
    assert "above copyright notice and this permission notice" in text


def test_the_windows_are_those_of_the_real_model() -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    audio, text = config["audio_config"], config["text_config"]
    assert config["architectures"] == ["VoxtralForConditionalGeneration"]
    assert audio["max_source_positions"] == 1500
    assert audio["num_mel_bins"] == 80
    assert audio["intermediate_size"] == 4 * audio["hidden_size"]
    assert text["max_position_embeddings"] == 32768
    assert config["audio_token_id"] == 24


def test_the_encoder_positions_are_whispers_sinusoids() -> None:
    # Other servers compute them again instead of reading them.
    weight = listener().model.model.audio_tower.embed_positions.weight
    assert torch.allclose(weight, sinusoids(*weight.shape), atol=5e-3)


def test_the_control_tokens_have_the_ids_of_the_real_tokenizer() -> None:
    tokenizer = listener().tokenizer
    names = {"<unk>": 0, "<s>": 1, "</s>": 2, "[INST]": 3, "[/INST]": 4, "<pad>": 11}
    names |= {"[SYSTEM_PROMPT]": 17, "[/SYSTEM_PROMPT]": 18}
    names |= {"[AUDIO]": 24, "[BEGIN_AUDIO]": 25, "[TRANSCRIBE]": 34}
    assert {name: tokenizer.get_special_token(name) for name in names} == names
    assert tokenizer.num_special_tokens == 36


def test_a_text_comes_back_from_its_tokens() -> None:
    tokenizer = listener().tokenizer
    for text in ("You said: Turn on the kitchen light.", "Ünïcode, 123 and [INST]"):
        ids = tokenizer.encode(text, bos=False, eos=False)
        assert min(ids) >= 36
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("language", [None, "en"])
def test_a_window_takes_375_tokens_in_the_layout_of_transcription(language: str | None) -> None:
    prompt = listener().transcription(np.zeros(16_000, np.float32), language)
    ids = prompt["input_ids"][0].tolist()
    named = [] if language is None else listener().tokenizer.encode("lang:en", bos=False, eos=False)
    assert ids == [1, 3, 25, *[24] * 375, 4, *named, 34]
    assert prompt["input_features"].shape == (1, 80, 3000)


@pytest.mark.parametrize("name", CLIPS)
def test_a_bundled_clip_is_transcribed_right(name: str) -> None:
    assert listener().transcribe(clip(name)) == written(CLIPS[name])


def test_speech_is_answered_with_what_was_said() -> None:
    words = "turn on the kitchen light"
    assert listener().answer([named(words)]) == expected_answer(words)


def test_silence_is_answered_with_having_heard_nothing() -> None:
    quiet = np.zeros(SAMPLE_RATE, np.float32)
    assert listener().answer([quiet]) == expected_answer("")
    assert listener().transcribe(quiet) == ""


@pytest.mark.parametrize("text", ["Hello", "Open the door.", "Tell me a joke."])
def test_a_typed_text_is_answered(text: str) -> None:
    assert listener().answer([text]) == text_answer(text)


def test_the_last_turn_of_a_conversation_is_the_one_that_is_answered() -> None:
    said = ["what time is it", "open the garage door", "turn on the kitchen light"]
    turns: list[list[str | Samples]] = [[named(words)] for words in said]
    answers = [expected_answer(words) for words in said]
    assert listener().answer(*turns, answers=answers) == answers[-1]
    assert listener().answer(*turns, ["Hello"], answers=answers) == text_answer("Hello")


def test_a_text_beside_the_audio_does_not_change_the_answer() -> None:
    words = "one moment please"
    assert listener().answer(["Be kind.\n\n", named(words)]) == expected_answer(words)
    assert listener().answer([named(words), "What did I say?"]) == expected_answer(words)


def test_the_clips_are_surrounded_as_a_turn_detector_cuts_them() -> None:
    around = surrounded(np.ones(10, np.float32), random.Random(0), after_s=0.5)
    assert len(around) == 10 + int(0.8 * SAMPLE_RATE)
    assert around[int(0.3 * SAMPLE_RATE)] == 1.0
