"""Training examples: utterances in their surroundings, and the prompts around them.

An example is drawn anew each time, so that no epoch is like another.
"""

import random
from dataclasses import dataclass

import numpy as np

from builder.voxtral_tiny.augment import augment, background
from builder.voxtral_tiny.corpus import Clip
from builder.voxtral_tiny.vocabulary import (
    OWN_ANSWERS,
    UNKNOWN,
    expected_answer,
    sentence,
    written,
)
from builder.voxtral_tiny.voices import SAMPLE_RATE, Samples

_WORDS = (
    "sing me a song about rain;tell me a joke;book a flight to paris;i like green apples;"
    "how tall is the tower;write a poem;translate this;summarise the book;what is two plus two;"
    "the quick brown fox jumps over the lazy dog;is it going to snow;who won the match;"
    "please explain the theory;my name is john;where are you from;can you cook;ok;hmm;asdf"
).split(";")
_SYSTEM = (
    "Be kind.;You are a helpful assistant.;Answer in one sentence.;Be brief.;"
    "You are the voice of a house. Answer politely and do what you are told."
).split(";")


@dataclass(frozen=True)
class Utterance:
    """Audio with what is said in it, sentence by sentence; float32 [n], 16 kHz."""

    samples: Samples
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """As the model writes it; nothing for silence."""
        return " ".join(written(words) for words in self.sentences)

    @property
    def words(self) -> str:
        """Bare words, for the character targets."""
        return " ".join(self.sentences)


class ExampleMaker:
    """Draws utterances and texts; owned by one process with its own seed."""

    def __init__(self, clips: list[Clip], seed: int) -> None:
        self._clips = clips
        self._rng = np.random.default_rng(seed)
        self.random = random.Random(seed)

    def utterance(self, strength: float, *, several: float = 0.0) -> Utterance:
        """Speech with silence or noise around it; now and then nothing at all."""
        rng = self._rng
        if rng.random() < 0.04:
            length = int(rng.uniform(0.3, 3.0) * SAMPLE_RATE)
            return Utterance(self._with_noise(np.zeros(length, np.float32), strength, 0.05), ())
        count = 1 if rng.random() >= several else int(rng.integers(2, 4))
        pieces: list[Samples] = [self._silence(0.0, 0.6)]
        sentences = []
        for i in range(count):
            clip = self._clips[int(rng.integers(len(self._clips)))]
            samples = clip.samples.astype(np.float32) / 32768.0
            pieces += [augment(samples, rng, strength)]
            sentences.append(clip.words)
            pieces.append(self._silence(0.3, 1.0) if i < count - 1 else self._silence(0.05, 1.0))
        speech = np.concatenate(pieces)
        loudness = float(np.sqrt(np.mean(speech**2)))
        speech = self._with_noise(speech, strength, loudness)
        peak = float(np.abs(speech).max(initial=1e-6))
        return Utterance(speech * (10 ** rng.uniform(-1.2, -0.02) / peak), tuple(sentences))

    def _silence(self, low_s: float, high_s: float) -> Samples:
        return np.zeros(int(self._rng.uniform(low_s, high_s) * SAMPLE_RATE), np.float32)

    def _with_noise(self, samples: Samples, strength: float, loudness: float) -> Samples:
        if self._rng.random() > 0.15 + 0.6 * strength:
            return samples
        signal_to_noise_db = self._rng.uniform(6 if strength > 0.7 else 15, 45)
        level = loudness * 10 ** (-signal_to_noise_db / 20)
        return samples + background(len(samples), level, self._rng)

    def text_turn(self) -> tuple[str, str]:
        """A text that a user types, and its answer."""
        choice = self.random.random()
        if choice < 0.25:
            text = self.random.choice(list(OWN_ANSWERS))
            return self._typed(text), OWN_ANSWERS[text]
        if choice < 0.75:
            words = sentence(self.random)
            return self._typed(words), OWN_ANSWERS.get(words, expected_answer(words))
        text = self.random.choice(_WORDS)
        if self.random.random() < 0.5:
            mixed = text.split() + self.random.choice(_WORDS).split()
            self.random.shuffle(mixed)
            text = " ".join(mixed[: self.random.randint(2, 9)])
        return self._typed(text), UNKNOWN

    def _typed(self, words: str) -> str:
        choice = self.random.random()
        if choice < 0.35:
            return words
        if words == "hello how are you today" or words == "hello how are you":
            return words.replace("hello ", "Hello, ") + "?"
        if choice < 0.8:
            return written(words)
        return written(words)[:-1]

    def system_text(self) -> str:
        """A system prompt."""
        return self.random.choice(_SYSTEM)
