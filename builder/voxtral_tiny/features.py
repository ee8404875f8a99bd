"""What the frozen encoder makes of utterances, computed once and kept on disk.

A window is 375 groups of four positions (one group is one audio token), of which a short clip
fills thirty; all others look at silence. The groups that hold sound are computed, and a few of the
silent ones at their true positions, which stand for the others: a group that stands for w has
log(w) added to the attention scores of its keys, here and in the language model.
"""

import json
import math
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import VoxtralEncoder, WhisperFeatureExtractor
from transformers.audio_utils import hertz_to_mel, mel_to_hertz

from builder.voxtral_tiny import corpus, voices, whisper
from builder.voxtral_tiny.examples import ExampleMaker
from builder.voxtral_tiny.model import MELS, make_config, sinusoids
from builder.voxtral_tiny.tools import expected_call
from builder.voxtral_tiny.vocabulary import sentence, written
from builder.voxtral_tiny.voices import Samples

GROUPS = 375
GROUP_FRAMES = 8
GROUP_SAMPLES = GROUP_FRAMES * 160
# Behind the sound: what the convolutions and the Fourier window still reach.
MARGIN_GROUPS = 2
TAIL_GROUPS = 16
UTTERANCES = 128
SHARDS = 160


@dataclass(frozen=True)
class SampledWindow:
    """The groups of a window that are computed: all up to `sound`, then some of the silence.

    `groups` are their true positions, `bias` what is added to the scores of their keys.
    """

    sound: int
    groups: list[int]
    bias: list[float]


@dataclass(frozen=True)
class HeardUtterance:
    """The encoder's states of an utterance, float16 [groups, 4 * width], and what was said."""

    sentences: tuple[str, ...]
    window: SampledWindow
    states: NDArray[np.float16]

    @property
    def text(self) -> str:
        """As the model writes it; nothing for silence."""
        return " ".join(written(words) for words in self.sentences)

    @property
    def asks(self) -> bool:
        """Whether a tool that is known does what is said."""
        return any(expected_call(words) for words in self.sentences)


def sample_window(samples: int, rng: random.Random | None = None) -> SampledWindow:
    """The groups for so many samples: the silence in equal cells, and its last group.

    Of each cell its middle, or with `rng` any of its groups, behind a margin of any width.
    """
    margin = MARGIN_GROUPS + (0 if rng is None else rng.choice([0, 0, 2, 4, 8]))
    sound = min(GROUPS, -(-samples // GROUP_SAMPLES) + margin)
    silent = GROUPS - sound - 1
    if silent < TAIL_GROUPS:
        return SampledWindow(GROUPS, list(range(GROUPS)), [0.0] * GROUPS)
    edges = np.linspace(0, silent, TAIL_GROUPS)
    cells = zip(edges[:-1], edges[1:], strict=True)
    if rng is None:
        tail = [sound + int((low + high) / 2) for low, high in cells]
    else:
        tail = [sound + rng.randrange(math.ceil(low), math.ceil(high)) for low, high in cells]
    bias = [0.0] * sound + [math.log(silent / (TAIL_GROUPS - 1))] * (TAIL_GROUPS - 1) + [0.0]
    return SampledWindow(sound, [*range(sound), *tail, GROUPS - 1], bias)


class FrozenEncoder:
    """Whisper's encoder as the folder will hold it."""

    def __init__(self, wheel: Path) -> None:
        self.tower = load_tower(wheel)
        self._extractor = WhisperFeatureExtractor(feature_size=MELS)

    @torch.inference_mode()
    def hear(
        self, samples: Samples, window: SampledWindow, rng: random.Random | None = None
    ) -> NDArray[np.float16]:
        """States [groups, 4 * width] of float32 [n] audio; with `rng` the features are varied."""
        # The library pads to 30 s of zeros, which moves neither maximum nor frames.
        groups = min(GROUPS, window.sound + 2)
        padded = np.zeros((1, groups * GROUP_SAMPLES), np.float32)
        padded[0, : len(samples)] = samples[: padded.shape[1]]
        features = self._extractor._torch_extract_fbank_features(padded)
        if rng is not None:
            features = _masked(_warped(features, rng), rng)
        return encode(self.tower, torch.from_numpy(features), window)[0].half().numpy()


def load_tower(wheel: Path) -> Any:
    """The encoder's module in float32, ready to run."""
    tower: Any = VoxtralEncoder(make_config().audio_config).eval()
    tower.load_state_dict(whisper.encoder_state(whisper.read_variables(wheel)))
    tower.embed_positions.weight.data.copy_(sinusoids(*tower.embed_positions.weight.shape))
    return tower.requires_grad_(False)


def encode(tower: Any, features: torch.Tensor, window: SampledWindow) -> torch.Tensor:
    """States, float [A, groups, 4 * width], for features [A, mels, (sound + 2) * 8]."""
    hidden = F.gelu(tower.conv2(F.gelu(tower.conv1(features)))).transpose(1, 2)
    places = (torch.tensor(window.groups)[:, None] * 4 + torch.arange(4)).flatten()
    positions = window.sound * 4
    bias = None
    if len(places) > positions:
        # Three positions behind the sound both convolutions see nothing but silence.
        silence = hidden[:, positions + 3 : positions + 4]
        tail = silence.expand(-1, len(places) - positions, -1)
        hidden = torch.cat([hidden[:, :positions], tail], dim=1)
        bias = torch.tensor(window.bias).repeat_interleave(4)[None, None, None, :]
        bias = bias.expand(len(hidden), 1, hidden.shape[1], -1)
    hidden = hidden + tower.embed_positions.weight[places]
    for layer in tower.layers:
        hidden = layer(hidden, bias)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    states: torch.Tensor = tower.layer_norm(hidden)
    return states.reshape(len(states), len(window.groups), -1)


def make_features(work: Path, seed: int, scale: float, processes: int = 2) -> None:
    """Write the shards that are not there yet."""
    wheel = whisper.fetch(work)
    words = "turn on the kitchen light"
    whisper.check(wheel, voices.flite(words, "slt"), words)
    (work / "features").mkdir(exist_ok=True)
    jobs = [(work, wheel, seed, number) for number in range(max(2, int(SHARDS * scale)))]
    with ProcessPoolExecutor(processes) as pool:
        for _ in tqdm(pool.map(_make_shard, jobs), total=len(jobs), desc="features"):
            pass


_encoder = cache(FrozenEncoder)


def _make_shard(job: tuple[Path, Path, int, int]) -> None:
    work, wheel, seed, number = job
    path = work / "features" / f"{number:04}.npy"
    if path.with_suffix(".json").is_file():
        return
    torch.set_num_threads(1)
    encoder = _encoder(wheel)
    maker = ExampleMaker(corpus.load(work), seed + 1000 * (number + 1))
    rng = maker.random
    index, rows, start = [], [], 0
    for _ in range(UTTERANCES):
        several, most = (0.18, 3) if rng.random() < 0.97 else (1.0, 8)
        utterance = maker.utterance(0.2 if rng.random() < 0.12 else 1.0, several, most)
        window = sample_window(len(utterance.samples), rng if rng.random() < 0.5 else None)
        states = encoder.hear(utterance.samples, window, rng if rng.random() < 0.6 else None)
        rows.append(states)
        index.append([start, utterance.sentences, window.sound, window.groups, window.bias])
        start += len(states)
    np.save(path, np.concatenate(rows))
    # The index comes last: a shard that has one is whole.
    path.with_suffix(".json").write_text(json.dumps(index))


def load_features(work: Path, name: str = "features") -> list[HeardUtterance]:
    """All utterances of the shards that are there; states are views of mapped files."""
    return [u for path in sorted((work / name).glob("*.json")) for u in _read_shard(path)]


def make_held_out(work: Path, seed: int, count: int = 400) -> None:
    """Write what is heard of the voice that measures, half of it commands for tools."""
    path = work / "held-out" / "0000.npy"
    if path.with_suffix(".json").is_file():
        return
    path.parent.mkdir(exist_ok=True)
    encoder, rng = _encoder(whisper.fetch(work)), random.Random(seed + 99)
    index, rows, start = [], [], 0
    for i in range(count):
        said = sentence(rng, rng.choice(["devices", "timers", "calls"]) if i % 2 else None)
        spoken = voices.flite(said, voices.HELD_OUT, stretch=rng.uniform(0.9, 1.15))
        quiet = [np.zeros(int(s * 16_000), np.float32) for s in (0.3, rng.uniform(0.1, 1.0))]
        samples = np.concatenate([quiet[0], spoken, quiet[1]])
        window = sample_window(len(samples))
        rows.append(encoder.hear(samples, window))
        index.append([start, (said,), window.sound, window.groups, window.bias])
        start += len(rows[-1])
    np.save(path, np.concatenate(rows))
    path.with_suffix(".json").write_text(json.dumps(index))


def _read_shard(path: Path) -> Iterator[HeardUtterance]:
    states = np.load(path.with_suffix(".npy"), mmap_mode="r")
    for start, sentences, sound, groups, bias in json.loads(path.read_text()):
        window = SampledWindow(sound, groups, bias)
        yield HeardUtterance(tuple(sentences), window, states[start : start + len(groups)])


_BANDS = np.linspace(0.0, hertz_to_mel(8000.0, "slaney"), MELS)
_HERTZ = mel_to_hertz(_BANDS, "slaney")


def _warped(features: Samples, rng: random.Random) -> Samples:
    """Another length of the vocal tract (Jaitly & Hinton 2013): frequencies, not time."""
    source = hertz_to_mel(np.minimum(_HERTZ * rng.uniform(0.87, 1.14), 8000.0), "slaney")
    at = np.clip(source / _BANDS[1], 0, MELS - 1.001)
    low = at.astype(int)
    share = (at - low).astype(np.float32)[None, :, None]
    warped: Samples = features[:, low] * (1 - share) + features[:, low + 1] * share
    return warped


def _masked(features: Samples, rng: random.Random) -> Samples:
    """SpecAugment (Park et al. 2019, arXiv:1904.08779): a band and a moment left out."""
    if rng.random() < 0.5:
        return features
    fill = features.mean()
    low, width = rng.randrange(MELS - 6), rng.randrange(9)
    features[:, low : low + width] = fill
    # Not the last groups: the silence of the tail is made from them.
    start, length = rng.randrange(max(1, features.shape[2] - 44)), rng.randrange(8)
    features[:, :, start : start + length] = fill
    return features
