"""Batches: log-mel features, and prompts whose 30 s windows cost no more than their speech.

A window is 375 audio tokens, of which a short clip fills forty; all others look at
silence. A batch keeps the groups (one group is one audio token) that hold sound, and a
few of the silent ones at their true positions; log(all / kept) on the attention scores of
these keys makes up for those that were left out.
"""

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from transformers import WhisperFeatureExtractor

from builder.voxtral_tiny.examples import ExampleMaker, Utterance
from builder.voxtral_tiny.tokenizer import BOS, EOS, PAD

GROUPS = 375
GROUP_FRAMES = 8
GROUP_SAMPLES = GROUP_FRAMES * 160
TAIL_GROUPS = 10
CHARACTERS = " abcdefghijklmnopqrstuvwxyz"
AUDIO_PLACE = -1


@dataclass
class Batch:
    """Audio of all prompts, flat, and the prompts themselves.

    `features` [A, 128, frames]; `groups` [G] true positions of the groups; `bias` [G].
    `ids`, `positions`, `labels` [B, T]; `key_bias` [B, T] (-inf where padded); places with
    AUDIO_PLACE take the embeddings of `audio_index` [B, T], rows of [A * G].
    `characters` and `pieces` are the targets of the two CTC losses, with their lengths.
    """

    features: torch.Tensor
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
    frame_lengths: torch.Tensor


class Batcher:
    """Turns utterances and turns into batches."""

    def __init__(self, tokenizer: object, maker: ExampleMaker) -> None:
        self._tokenizer = tokenizer
        self._maker = maker
        self._extractor = WhisperFeatureExtractor(feature_size=128)

    def draw(self, size: int, strength: float, *, several: float, turns: int) -> Batch:
        """A batch of `size` prompts of up to `turns` turns; clips of like length together."""
        wanted = size * turns
        drawn = [self._maker.utterance(strength, several=several) for _ in range(wanted * 3)]
        drawn.sort(key=lambda utterance: len(utterance.samples))
        start = self._maker.random.randrange(len(drawn) - wanted + 1)
        utterances = drawn[start : start + wanted]
        self._maker.random.shuffle(utterances)
        return self._assemble(utterances, turns, strength)

    def _assemble(self, utterances: list[Utterance], turns: int, strength: float) -> Batch:
        longest = max(len(u.samples) for u in utterances)
        kept = min(GROUPS - TAIL_GROUPS, -(-longest // GROUP_SAMPLES) + 2)
        features = self._features(utterances, kept * GROUP_FRAMES, strength)
        tail = sorted(self._maker.random.sample(range(kept, GROUPS), TAIL_GROUPS))
        groups = torch.tensor([*range(kept), *tail])
        bias = torch.zeros(len(groups))
        bias[kept:] = math.log((GROUPS - kept) / TAIL_GROUPS)
        rows = [
            self._prompt(utterances[i : i + turns], i, groups, bias)
            for i in range(0, len(utterances), turns)
        ]
        length = max(len(row[0]) for row in rows)
        pads = (PAD, 0, -100, -math.inf, -1)
        columns = [
            torch.tensor([row[c] + [pad] * (length - len(row[c])) for row in rows])
            for c, pad in enumerate(pads)
        ]
        characters = [[CHARACTERS.index(c) + 1 for c in u.words] for u in utterances]
        pieces = [self._encode(u.text) for u in utterances]
        return Batch(
            features,
            groups,
            bias,
            *columns[:3],
            columns[3].float(),
            columns[4],
            torch.tensor([c for row in characters for c in row]),
            torch.tensor([len(row) for row in characters]),
            torch.tensor([p for row in pieces for p in row]),
            torch.tensor([len(row) for row in pieces]),
            torch.tensor([len(u.samples) // GROUP_SAMPLES + 1 for u in utterances]),
        )

    def _features(self, utterances: list[Utterance], frames: int, strength: float) -> torch.Tensor:
        padded = np.zeros((len(utterances), frames * 160), np.float32)
        for row, utterance in zip(padded, utterances, strict=True):
            length = min(len(utterance.samples), len(row))
            row[:length] = utterance.samples[:length]
        # The library pads to 30 s of zeros at the end, which moves neither maximum nor frames.
        features = torch.from_numpy(self._extractor._torch_extract_fbank_features(padded))
        if strength > 0.7:
            _mask(features, self._maker.random)
        return features

    def _prompt(
        self, utterances: list[Utterance], first: int, groups: torch.Tensor, bias: torch.Tensor
    ) -> tuple[list[int], list[int], list[int], list[float], list[int]]:
        maker, rng = self._maker, self._maker.random
        ids: list[int] = []
        positions: list[int] = []
        labels: list[int] = []
        key_bias: list[float] = []
        audio_index: list[int] = []
        offset = rng.randrange(6000) if rng.random() < 0.3 else 0
        at = offset

        def add(tokens: list[int], *, learn: bool = False) -> None:
            nonlocal at
            for token in tokens:
                ids.append(token)
                positions.append(at)
                labels.append(token if learn else -100)
                key_bias.append(0.0)
                audio_index.append(-1)
                at += 1

        def add_audio(number: int) -> None:
            nonlocal at
            add([25])
            for g, (position, extra) in enumerate(zip(groups.tolist(), bias.tolist(), strict=True)):
                ids.append(AUDIO_PLACE)
                positions.append(at + position)
                labels.append(-100)
                key_bias.append(extra)
                audio_index.append(number * len(groups) + g)
            at += GROUPS

        add([BOS])
        if len(utterances) == 1 and rng.random() < 0.5:
            add([3])
            add_audio(first)
            add([4])
            if rng.random() < 0.4:
                add(self._encode("lang:en"))
            add([34])
            add([*self._encode(utterances[0].text), EOS], learn=True)
            return ids, positions, labels, key_bias, audio_index
        system = maker.system_text() + "\n\n" if rng.random() < 0.12 else None
        for i, utterance in enumerate(utterances):
            add([3])
            if system is not None:
                add(self._encode(system))
                system = None
            if rng.random() < 0.25:
                text, answer = maker.text_turn()
                add([*self._encode(text), 4])
            else:
                add_audio(first + i)
                if rng.random() < 0.1:
                    add(self._encode(rng.choice(["What did I say?", "Answer me.", "Repeat."])))
                add([4])
                answer = f"You said: {utterance.text}" if utterance.text else "I heard nothing."
            tokens = [*self._encode(answer), EOS]
            if i < len(utterances) - 1 and rng.random() < 0.1:
                # An answer that was interrupted ends early in the history.
                add([*tokens[: rng.randrange(len(tokens))], EOS])
            else:
                add(tokens, learn=True)
        return ids, positions, labels, key_bias, audio_index

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, bos=False, eos=False)  # type: ignore[attr-defined]


def _mask(features: torch.Tensor, rng: random.Random) -> None:
    """SpecAugment (Park et al. 2019, arXiv:1904.08779): bands and moments left out."""
    for row in features:
        fill = row.mean()
        for _ in range(2):
            low, width = rng.randrange(120), rng.randrange(14)
            row[low : low + width] = fill
            start, length = rng.randrange(row.shape[1]), rng.randrange(12)
            row[:, start : start + length] = fill
