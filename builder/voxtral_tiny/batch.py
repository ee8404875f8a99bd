"""Batches: log-mel features, and prompts whose 30 s windows cost no more than their speech.

A window is 375 audio tokens, of which a short clip fills forty; all others look at
silence. A batch keeps the groups (one group is one audio token) that hold sound, and a
few of the silent ones at their true positions; log(all / kept) on the attention scores of
these keys makes up for those that were left out.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from transformers import WhisperFeatureExtractor
from transformers.audio_utils import hertz_to_mel, mel_to_hertz

from builder.voxtral_tiny.examples import ExampleMaker, Utterance
from builder.voxtral_tiny.prompts import Prompt, PromptMaker, Window
from builder.voxtral_tiny.tokenizer import PAD, Tokenizer
from builder.voxtral_tiny.voices import Samples

GROUPS = 375
GROUP_FRAMES = 8
GROUP_SAMPLES = GROUP_FRAMES * 160
TAIL_GROUPS = 7
LEAD_GROUPS = 6
CHARACTERS = " abcdefghijklmnopqrstuvwxyz"
AUDIO_PLACE = -1
MOST_OFFSET = 12_000
ALIKE = 3
MOST_SAMPLES = 32 * 3 * 16_000


@dataclass
class Batch:
    """Audio of all prompts, flat, and the prompts themselves.

    `features` [A, 128, frames]; `groups` [G] true positions of the groups, of which the
    first `lead` are silence before the features; `bias` [G]. `ids`, `positions`, `labels`
    [B, T]; `key_bias` [B, T] (-inf where padded); places with AUDIO_PLACE take the
    embeddings of `audio_index` [B, T], rows of [A * G]. `characters` and `pieces` are the
    targets of the two CTC losses, with their lengths; `sound_lengths` [A] in groups.
    """

    features: torch.Tensor
    lead: int
    groups: torch.Tensor
    bias: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    key_bias: torch.Tensor
    audio_index: torch.Tensor
    characters: torch.Tensor
    character_lengths: torch.Tensor
    pieces: torch.Tensor
    piece_lengths: torch.Tensor
    sound_lengths: torch.Tensor


@dataclass(frozen=True)
class SampledWindow:
    """Which groups of a window are computed, and what is added to their attention scores."""

    lead: int
    groups: list[int]
    bias: list[float]


class Batcher:
    """Turns utterances into batches."""

    def __init__(self, tokenizer: Tokenizer, maker: ExampleMaker) -> None:
        self._tokenizer = tokenizer
        self._maker = maker
        self._prompts = PromptMaker(maker, self._encode)
        self._extractor = WhisperFeatureExtractor(feature_size=128)

    def draw(
        self, size: int, strength: float, *, several: float, most: int, turns: int, late: float
    ) -> Iterator[Batch]:
        """Batches of `size` prompts with `turns` utterances each; clips of like length together.

        `late` is the share of batches whose speech starts anywhere in the window.
        """
        wanted = size * turns
        drawn = [self._maker.utterance(strength, several, most) for _ in range(wanted * ALIKE)]
        drawn.sort(key=lambda utterance: len(utterance.samples))
        starts = list(range(0, len(drawn), wanted))
        self._maker.random.shuffle(starts)
        for start in starts:
            utterances = _affordable(drawn[start : start + wanted], turns)
            self._maker.random.shuffle(utterances)
            yield self._assemble(utterances, turns, strength, late)

    def _assemble(
        self, utterances: list[Utterance], turns: int, strength: float, late: float
    ) -> Batch:
        longest = max(len(u.samples) for u in utterances)
        # A silent group before and two after the sound keep the convolutions' edges silent.
        sound = min(GROUPS - TAIL_GROUPS, -(-longest // GROUP_SAMPLES) + 3)
        is_late = self._maker.random.random() < late
        window = _window(sound, self._maker.random, late=is_late)
        features = self._features(utterances, sound * GROUP_FRAMES, strength, late=is_late)
        heard = list(enumerate(utterances))
        # The longest prompt decides what all of them cost, so texts come in batches of their own.
        plain = turns == 1 and self._maker.random.random() < 0.7
        prompts = [
            self._prompts.prompt(heard[i : i + turns], plain=plain)
            for i in range(0, len(heard), turns)
        ]
        if not plain:
            prompts += [self._prompts.text_prompt() for _ in range(2)]
        rows = [_numbered(prompt, window, self._maker.random) for prompt in prompts]
        length = max(len(row[0]) for row in rows)
        pads = (PAD, 0, -100, -math.inf, -1)
        ids, positions, labels, key_bias, audio_index = (
            torch.tensor([row[c] + [pad] * (length - len(row[c])) for row in rows])
            for c, pad in enumerate(pads)
        )
        characters = [[CHARACTERS.index(c) + 1 for c in u.words] for u in utterances]
        pieces = [self._encode(u.text) for u in utterances]
        return Batch(
            features,
            window.lead,
            torch.tensor(window.groups),
            torch.tensor(window.bias),
            ids,
            positions,
            labels,
            key_bias.float(),
            audio_index,
            torch.tensor([c for row in characters for c in row]),
            torch.tensor([len(row) for row in characters]),
            torch.tensor([p for row in pieces for p in row]),
            torch.tensor([len(row) for row in pieces]),
            torch.tensor([min(sound, len(u.samples) // GROUP_SAMPLES + 2) for u in utterances]),
        )

    def _features(
        self, utterances: list[Utterance], frames: int, strength: float, *, late: bool
    ) -> torch.Tensor:
        padded = np.zeros((len(utterances), frames * 160), np.float32)
        before = GROUP_SAMPLES if late else 0
        for row, utterance in zip(padded, utterances, strict=True):
            length = min(len(utterance.samples), len(row) - before)
            row[before : before + length] = utterance.samples[:length]
        # The library pads to 30 s of zeros at the end, which moves neither maximum nor frames.
        features = self._extractor._torch_extract_fbank_features(padded)
        if strength > 0.7:
            features = np.stack([_warped(row, self._maker.random) for row in features])
            _mask(features, self._maker.random)
        return torch.from_numpy(features)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, bos=False, eos=False)


def _affordable(utterances: list[Utterance], turns: int) -> list[Utterance]:
    """Fewer prompts where the clips, shortest first, are long: all batches cost about the same."""
    longest = max(1, len(utterances[-1].samples))
    count = min(len(utterances), MOST_SAMPLES // longest)
    return utterances[-max(turns, count // turns * turns) :]


def _window(sound: int, rng: random.Random, *, late: bool) -> SampledWindow:
    """The groups of the sound, at the window's start or anywhere, and some of the silence."""
    start = rng.randrange(GROUPS - sound - TAIL_GROUPS + 1) if late else 0
    lead = sorted(rng.sample(range(start), min(start, LEAD_GROUPS)))
    after = range(start + sound, GROUPS)
    tail = sorted(rng.sample(after, TAIL_GROUPS))
    bias = [
        *([math.log(start / len(lead))] * len(lead) if lead else []),
        *([0.0] * sound),
        *([math.log(len(after) / TAIL_GROUPS)] * TAIL_GROUPS),
    ]
    return SampledWindow(len(lead), [*lead, *range(start, start + sound), *tail], bias)


_Row = tuple[list[int], list[int], list[int], list[float], list[int]]


def _numbered(prompt: Prompt, window: SampledWindow, rng: random.Random) -> _Row:
    """Ids, positions, labels, key bias and audio index of a prompt, place by place."""
    ids: list[int] = []
    positions: list[int] = []
    labels: list[int] = []
    key_bias: list[float] = []
    audio_index: list[int] = []
    # Long conversations: what is heard must not depend on how far down the context it is.
    at = rng.randrange(MOST_OFFSET) if rng.random() < 0.3 else 0
    for part in prompt:
        if isinstance(part, Window):
            count = len(window.groups)
            ids += [AUDIO_PLACE] * count
            positions += [at + group for group in window.groups]
            labels += [-100] * count
            key_bias += window.bias
            audio_index += range(part.row * count, (part.row + 1) * count)
            at += GROUPS
        else:
            count = len(part.ids)
            ids += part.ids
            positions += range(at, at + count)
            labels += part.ids if part.learned else [-100] * count
            key_bias += [0.0] * count
            audio_index += [-1] * count
            at += count
    return ids, positions, labels, key_bias, audio_index


_MELS = np.linspace(0.0, hertz_to_mel(8000.0, "slaney"), 128)
_HERTZ = mel_to_hertz(_MELS, "slaney")


def _warped(row: Samples, rng: random.Random) -> Samples:
    """Another length of the vocal tract (Jaitly & Hinton 2013): frequencies, not time."""
    if rng.random() < 0.5:
        return row
    source = hertz_to_mel(np.minimum(_HERTZ * rng.uniform(0.87, 1.14), 8000.0), "slaney")
    at = np.clip(source / _MELS[1], 0, 126.999)
    low = at.astype(int)
    share = (at - low).astype(np.float32)[:, None]
    warped: Samples = row[low] * (1 - share) + row[low + 1] * share
    return warped


def _mask(features: Samples, rng: random.Random) -> None:
    """SpecAugment (Park et al. 2019, arXiv:1904.08779): bands and moments left out."""
    for row in features:
        fill = row.mean()
        for _ in range(2):
            low, width = rng.randrange(120), rng.randrange(14)
            row[low : low + width] = fill
            # Not the last two groups: the silence of the tail is made from them.
            start, length = rng.randrange(max(1, row.shape[1] - 28)), rng.randrange(12)
            row[:, start : start + length] = fill
