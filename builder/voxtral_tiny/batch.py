"""Batches: prompts whose 30 s windows cost no more than their speech.

A window is 375 audio tokens. A batch has those that were kept (features.py) at their true
positions; log(all / kept) on the attention scores of the silent ones makes up for the others.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from builder.voxtral_tiny.examples import ExampleMaker
from builder.voxtral_tiny.features import GROUPS, HeardUtterance, SampledWindow
from builder.voxtral_tiny.prompts import Prompt, PromptMaker, Tree, Window
from builder.voxtral_tiny.tokenizer import PAD, Tokenizer

AUDIO_PLACE = -1
MOST_OFFSET = 12_000
ALIKE = 3
THIN = 5
LONG_GROUPS = 100
# Rows of audio in a batch: long utterances come in smaller batches.
MOST_ROWS = 2200
# An answer's first token says whether it is a call: one token of thirty, and the one that matters.
DECISION_WEIGHT = 4.0


@dataclass
class Batch:
    """Audio of all prompts, and the prompts themselves.

    `states` [A, G, 4 * width] of the encoder, padded with zeros; `sound_lengths` [A] in groups.
    `ids`, `positions`, `labels` [B, T]; `key_bias` [B, T] (-inf where padded); places with
    AUDIO_PLACE take the embeddings of `audio_index` [B, T], rows of [A * G]. `branches` [B, T]: a
    place sees those of its own branch and of branch 0. `weights` [B, T] of the labels' losses.
    `pieces` are the targets of the CTC loss, with their lengths.
    """

    states: torch.Tensor
    sound_lengths: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    key_bias: torch.Tensor
    audio_index: torch.Tensor
    branches: torch.Tensor
    weights: torch.Tensor
    pieces: torch.Tensor
    piece_lengths: torch.Tensor


class Batcher:
    """Turns utterances into batches."""

    def __init__(self, tokenizer: Tokenizer, maker: ExampleMaker) -> None:
        self._tokenizer = tokenizer
        self._random = maker.random
        self._noise = np.random.default_rng(maker.random.randrange(1 << 30))
        self._prompts = PromptMaker(maker, self._encode)

    def draw(self, heard: list[HeardUtterance], size: int, turns: int) -> Iterator[Batch]:
        """Batches of `size` utterances, `turns` in a prompt; those of like length together."""
        drawn = [self._random.choice(heard) for _ in range(size * ALIKE)]
        drawn.sort(key=lambda utterance: len(utterance.states))
        starts = list(range(0, len(drawn), size))
        self._random.shuffle(starts)
        for start in starts:
            utterances = _affordable(drawn[start : start + size], turns)
            self._random.shuffle(utterances)
            # The longest prompt decides what all cost, so texts come in batches of their own.
            plain = turns == 1 and self._random.random() < 0.7
            numbered = list(enumerate(utterances))
            prompts = [
                self._prompts.prompt(numbered[i : i + turns], plain=plain)
                for i in range(0, len(numbered), turns)
            ]
            if not plain:
                prompts += [self._prompts.text_prompt() for _ in range(2)]
            yield self.assemble(utterances, prompts)

    def draw_tools(self, heard: list[HeardUtterance], size: int, turns: int) -> Batch:
        """A batch of `size` offers of tools, each with so many turns that do not see each other."""
        fitting = [u for u in self._random.sample(heard, min(len(heard), 400)) if u.asks] or heard
        utterances: list[HeardUtterance] = []
        trees: list[Tree] = []
        for _ in range(size):
            own: list[HeardUtterance] = []
            while len(own) < turns:
                u = self._random.choice(fitting if self._random.random() < 0.75 else heard)
                if len(u.states) < LONG_GROUPS or len(heard) < turns:
                    own.append(u)
            trees.append(self._prompts.tool_tree(list(enumerate(own, len(utterances)))))
            utterances += own
        return self.assemble(utterances, trees)

    def draw_choices(self, heard: list[HeardUtterance], size: int, turns: int) -> Batch:
        """A batch of `size` offers, each with so many spoken turns, and twice as many typed."""
        utterances: list[HeardUtterance] = []
        trees: list[Tree] = []
        short = [u for u in self._random.sample(heard, min(len(heard), 400)) if len(u.states) < 60]
        fitting = [u for u in short if u.asks] or heard
        near = [u for u in short if not u.asks and u.text.startswith("Call")] or heard
        for _ in range(size):
            kinds = self._random.choices([fitting, near, short or heard], (70, 15, 15), k=turns)
            own = [self._random.choice(kind) for kind in kinds]
            numbered = list(enumerate(own, len(utterances)))
            trees.append(self._prompts.choice_tree(numbered, 2 * turns))
            utterances += own
        return self.assemble(utterances, trees)

    def assemble(self, utterances: list[HeardUtterance], prompts: Sequence[Prompt | Tree]) -> Batch:
        """The batch of these prompts; their windows name utterances by their place in the list."""
        width = max(len(u.states) for u in utterances)
        states = np.zeros((len(utterances), width, utterances[0].states.shape[1]), np.float32)
        for row, utterance in zip(states, utterances, strict=True):
            row[: len(utterance.states)] = self._varied(utterance.states)
        windows = [utterance.window for utterance in utterances]
        rows = [_numbered(prompt, windows, width, self._random) for prompt in prompts]
        length = max(len(row[0]) for row in rows)
        pads = (PAD, 0, -100, -math.inf, -1, 0, 0.0)
        ids, positions, labels, key_bias, audio_index, branches, weights = (
            torch.tensor([row[c] + [pad] * (length - len(row[c])) for row in rows])
            for c, pad in enumerate(pads)
        )
        pieces = [self._encode(u.text) for u in utterances]
        return Batch(
            torch.from_numpy(states),
            torch.tensor([u.window.sound for u in utterances]),
            ids,
            positions,
            labels,
            key_bias.float(),
            audio_index,
            branches,
            weights,
            torch.tensor([p for row in pieces for p in row], dtype=torch.long),
            torch.tensor([len(row) for row in pieces]),
        )

    def _varied(self, states: np.ndarray[tuple[int, int], np.dtype[np.float16]]) -> np.ndarray:
        """The same states with noise and some groups left out, half of the time."""
        if self._random.random() < 0.5:
            return states
        noise = self._noise.standard_normal(states.shape, np.float32)
        kept = self._noise.random((len(states), 1)) > 0.04
        return (states + np.float32(self._random.uniform(0, 0.3)) * noise) * kept

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, bos=False, eos=False)


def _affordable(utterances: list[HeardUtterance], turns: int) -> list[HeardUtterance]:
    """Fewer prompts where utterances, shortest first, are long: all batches cost about the same."""
    count = min(len(utterances), MOST_ROWS // len(utterances[-1].states))
    return utterances[-max(turns, count // turns * turns) :]


def _thinned(window: SampledWindow, rng: random.Random) -> tuple[list[int], float]:
    """Which groups a prompt takes, and what is added to the bias of the silent ones.

    Mostly a part of the silence is enough: a prompt costs by its rows.
    """
    silent = [i for i, bias in enumerate(window.bias) if bias]
    if len(silent) <= THIN or rng.random() < 0.3:
        return list(range(len(window.groups))), 0.0
    kept = set(rng.sample(silent, THIN))
    chosen = [i for i, bias in enumerate(window.bias) if not bias or i in kept]
    return chosen, math.log(len(silent) / THIN)


_Row = tuple[list[int], list[int], list[int], list[float], list[int], list[int], list[float]]


def _numbered(
    prompt: Prompt | Tree, windows: list[SampledWindow], width: int, rng: random.Random
) -> _Row:
    """The columns of a batch for a prompt, place by place."""
    tree = prompt if isinstance(prompt, Tree) else Tree(prompt, [])
    ids: list[int] = []
    positions: list[int] = []
    labels: list[int] = []
    key_bias: list[float] = []
    audio_index: list[int] = []
    branches: list[int] = []
    weights: list[float] = []
    # Long conversations: what is heard must not depend on how far down the context it is.
    at = rng.randrange(MOST_OFFSET) if rng.random() < 0.3 else 0
    fork = at
    for branch, parts in enumerate([tree.trunk, *tree.branches]):
        at = fork
        for part in parts:
            if isinstance(part, Window):
                window = windows[part.row]
                kept, more = _thinned(window, rng)
                ids += [AUDIO_PLACE] * len(kept)
                positions += [at + window.groups[i] for i in kept]
                labels += [-100] * len(kept)
                weights += [0.0] * len(kept)
                key_bias += [window.bias[i] + (more if window.bias[i] else 0.0) for i in kept]
                audio_index += [part.row * width + i for i in kept]
                at += GROUPS
            else:
                count = len(part.ids)
                ids += part.ids
                positions += range(at, at + count)
                labels += part.ids if part.learned else [-100] * count
                weights += [DECISION_WEIGHT if branch else 1.0, *[1.0] * (count - 1)][:count]
                key_bias += [0.0] * count
                audio_index += [-1] * count
                at += count
        fork = fork if branch else at
        branches += [branch] * (len(ids) - len(branches))
    return ids, positions, labels, key_bias, audio_index, branches, weights
