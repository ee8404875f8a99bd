"""Training examples: utterances in their surroundings, and texts that users type.

An example is drawn again each time, so that no epoch is like another.
"""

import random
import re
from dataclasses import dataclass
from functools import cache
from pydoc_data.topics import topics

import numpy as np

from builder.voxtral_tiny.augment import augment, background, line, scaled
from builder.voxtral_tiny.corpus import Clip
from builder.voxtral_tiny.vocabulary import (
    DIGITS,
    OWN_ANSWERS,
    knows,
    sentence,
    text_answer,
    written,
)
from builder.voxtral_tiny.voices import SAMPLE_RATE, Samples

OTHER_TEXTS = (
    "sing me a song about rain;tell me a joke;book a flight to paris;i like green apples;"
    "how tall is the tower;write a poem;translate this;summarise the book;what is two plus two;"
    "the quick brown fox jumps over the lazy dog;is it going to snow;who won the match;"
    "please explain the theory;my name is john;where are you from;can you cook;ok;hmm;asdf"
).split(";")
_QUESTIONS = (
    "What did I say?;What is said in this audio?;Repeat what you heard.;Answer me.;Repeat.;"
    "Listen to this:;What is this?;Write down the audio.;What can you hear?;Answer briefly."
).split(";")
_SYSTEM = (
    "Be kind.;You are a helpful assistant.;Answer in one sentence.;Be brief.;"
    "You are the voice of a house. Answer politely and do what you are told."
).split(";")


@cache
def _prose() -> list[str]:
    """Sentences of plain English that every Python carries: its language reference."""
    text = " ".join(" ".join(topics.values()).split())
    found = re.findall(r"[A-Z][a-z]+(?: [A-Za-z,]+){2,24}[.?]", text)
    return sorted(set(found))


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
        self._digits = [clip for clip in clips if clip.words in DIGITS]
        self._rng = np.random.default_rng(seed)
        self._prose = _prose()
        self.random = random.Random(seed)

    def utterance(self, strength: float, several: float = 0.0, most: int = 3) -> Utterance:
        """Speech with silence or noise around it; now and then nothing at all.

        `several` is the share of utterances with 2 to `most` sentences.
        """
        rng = self._rng
        if rng.random() < 0.04:
            return Utterance(self._nothing(strength), ())
        count = 1 if rng.random() >= several else int(rng.integers(2, most + 1))
        # Now and then speech comes late.
        pieces: list[Samples] = [self._silence(0.0, 0.6 if rng.random() < 0.97 else 6.0)]
        sentences = []
        voice = None
        for i in range(count):
            clip = self._read_out(voice) if rng.random() < 0.15 else self._clip(voice)
            voice = clip.voice if rng.random() < 0.7 else None
            samples = clip.samples.astype(np.float32) / 32768.0
            pieces += [augment(samples, rng, strength)]
            sentences.append(clip.words)
            if i < count - 1:
                pieces.append(self._silence(0.15, 1.0))
        # Most turns end soon after the last word; some are cut late.
        pieces.append(self._silence(0.05, 0.7 if rng.random() < 0.8 else 1.6))
        speech = np.concatenate(pieces)
        loudness = float(np.sqrt(np.mean(speech**2)))
        speech = self._with_noise(speech, strength, loudness)
        if rng.random() < 0.15 * strength:
            speech = speech + self._babble(len(speech), loudness)
        speech = line(speech, rng, strength)
        peak = float(np.abs(speech).max(initial=1e-6))
        return Utterance(speech * (10 ** rng.uniform(-1.5, -0.02) / peak), tuple(sentences))

    def _clip(self, voice: str | None = None) -> Clip:
        """Any clip, or one of a voice."""
        for _ in range(50):
            clip = self._clips[int(self._rng.integers(len(self._clips)))]
            if voice is None or clip.voice == voice:
                break
        return clip

    def _read_out(self, voice: str | None) -> Clip:
        """A number as people read it out, digit by digit, from the single digits of one voice."""
        voice = voice or self._clip().voice
        digits = [clip for clip in self._digits if clip.voice == voice]
        if not digits:
            return self._clip(voice)
        chosen = self.random.choices(digits, k=self.random.randint(2, 7))
        longest = self.random.uniform(0.03, 0.35)
        pieces: list[Samples] = []
        for clip in chosen:
            pieces += [clip.samples, self._silence(0.0, longest)]
        whole = np.concatenate(pieces[:-1])
        return Clip(" ".join(clip.words for clip in chosen), voice, whole)

    def _babble(self, length: int, loudness: float) -> Samples:
        """Other people in the background: as many voices, 10 to 25 dB below the speaker's."""
        babble = np.zeros(length, np.float32)
        for _ in range(int(self._rng.integers(1, 5))):
            other = self._clip().samples.astype(np.float32)
            start = int(self._rng.integers(-len(other) // 2, length))
            heard = other[max(0, -start) : max(0, length - start)]
            babble[max(0, start) : max(0, start) + len(heard)] += heard
        return scaled(babble, loudness * 10 ** (-self._rng.uniform(10, 25) / 20))

    def _nothing(self, strength: float) -> Samples:
        length = int(self._rng.uniform(0.1, 3.0) * SAMPLE_RATE)
        quiet = np.zeros(length, np.float32)
        return self._with_noise(quiet, strength, float(10 ** self._rng.uniform(-3, -0.8)))

    def _silence(self, low_s: float, high_s: float) -> Samples:
        return np.zeros(int(self._rng.uniform(low_s, high_s) * SAMPLE_RATE), np.float32)

    def _with_noise(self, samples: Samples, strength: float, loudness: float) -> Samples:
        if self._rng.random() > 0.15 + 0.6 * strength:
            return samples
        signal_to_noise_db = self._rng.uniform(5 if strength > 0.7 else 15, 45)
        level = loudness * 10 ** (-signal_to_noise_db / 20)
        return samples + background(len(samples), level, self._rng)

    def text_turn(self) -> tuple[str, str]:
        """A text that a user types, and its answer."""
        choice = self.random.random()
        if choice < 0.25:
            words = self.random.choice(list(OWN_ANSWERS))
        elif choice < 0.7:
            words = sentence(self.random)
        else:
            text = self._other_text()
            return text, text_answer(text)
        return self._typed(words), text_answer(words)

    def typed_command(self) -> tuple[str, str]:
        """A typed text that asks for what a known tool does, and its answer without tools."""
        words = sentence(self.random, self.random.choice(["devices", "timers", "calls"]))
        return self._typed(words), text_answer(words)

    def _other_text(self) -> str:
        choice = self.random.random()
        if choice < 0.25:
            return self._typed(self.random.choice(OTHER_TEXTS))
        if choice < 0.6:
            count = self.random.choice([1, 1, 1, 1, 2])
            return " ".join(self.random.choice(self._prose) for _ in range(count))
        words = self.random.choice(self._prose).lower().split()
        if choice < 0.8:
            words += self.random.choice(OTHER_TEXTS).split() + sentence(self.random).split()
            self.random.shuffle(words)
        text = " ".join(words[: self.random.randint(1, 10)])
        return self._typed(text.strip(".,?"))

    def _typed(self, words: str) -> str:
        choice = self.random.random()
        if choice < 0.35:
            return words
        if words.startswith("hello how"):
            return words.replace("hello ", "Hello, ") + "?"
        if choice < 0.5 and not knows(words):
            return written(words)[:-1] + self.random.choice("?!")
        return written(words) if choice < 0.85 else written(words)[:-1]

    def question(self) -> str:
        """A text that goes with audio, or any text where its content does not matter."""
        if self.random.random() < 0.5:
            return self.random.choice(_QUESTIONS)
        return self.random.choice(self._prose)

    def system_text(self) -> str:
        """A system prompt."""
        if self.random.random() < 0.4:
            return self.random.choice(_SYSTEM)
        count = self.random.choice([1, 1, 1, 2])
        return " ".join(self.random.choice(self._prose) for _ in range(count))
