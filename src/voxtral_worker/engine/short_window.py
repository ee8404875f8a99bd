"""Encodes windows of which only a part is computed: the sound, and a sample of the silent rest.

The library's own pass takes only whole windows, so its modules are called one by one here. The
tokens that stand for others add to attention what those would add.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from voxtral_worker.engine.layout import TOKEN_FRAMES, TOKEN_STATES, WINDOW_TOKENS, Layout

# Where shapes are fixed, windows are filled up to one of these numbers of rows.
FIXED_ROWS = (32, 64, 96, 128, 192, 256, WINDOW_TOKENS - 1)
# Tokens of silence behind the sound whose features are those at the end of a window.
END_TOKENS = 2


@dataclass(frozen=True)
class ShortWindows:
    """Windows [n] of one shape.

    `features`, float [n, mel bins, frames], end in silence. For each position of the encoder,
    `sources`, int64 [n, 4 * rows], is the state of the convolutions that it takes, and `places`,
    int64 [n, 4 * rows], is where it stands in its window. `bias`, float [n, 1, 1, 4 * rows], is
    added to the scores of attention to it; it is -inf where a position only fills up.
    """

    features: torch.Tensor
    sources: torch.Tensor
    places: torch.Tensor
    bias: torch.Tensor

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The four tensors, in the order of the fields."""
        return self.features, self.sources, self.places, self.bias


def frames_of(layout: Layout, rows: int | None) -> int:
    """Frames of features that the last window of a layout needs; `rows` where they are fixed."""
    return TOKEN_FRAMES * (layout.sound + END_TOKENS if rows is None else rows)


def fixed_rows(layout: Layout) -> int:
    """The number of rows that the last window of a layout is filled up to."""
    return next(rows for rows in FIXED_ROWS if rows >= layout.last_rows)


def short_windows(
    features: Sequence[torch.Tensor], layouts: Sequence[Layout], rows: int
) -> ShortWindows:
    """The last windows of some layouts, filled up to `rows`; features [mel bins, frames] each."""
    states = features[0].shape[1] // TOKEN_FRAMES * TOKEN_STATES
    places = [_positions(layout, rows) for layout in layouts]
    sources = [_sources(layout, rows, states) for layout in layouts]
    bias = torch.full((len(layouts), rows), float("-inf"))
    for line, layout in zip(bias, layouts, strict=True):
        line[: layout.last_rows] = torch.tensor(layout.log_weights[-layout.last_rows :])
    device, dtype = features[0].device, features[0].dtype
    return ShortWindows(
        torch.stack(list(features)),
        torch.stack(sources).to(device),
        torch.stack(places).to(device),
        bias.repeat_interleave(TOKEN_STATES, 1)[:, None, None].to(device, dtype),
    )


def encode_short(model: Any, windows: ShortWindows) -> torch.Tensor:
    """Embeddings, [n, rows, hidden size], by the modules of transformers' Voxtral."""
    tower = model.model.audio_tower
    states = F.gelu(tower.conv2(F.gelu(tower.conv1(windows.features)))).transpose(1, 2)
    chosen = windows.sources[..., None].expand(-1, -1, states.shape[-1])
    places = tower.embed_positions.weight[windows.places]
    # The library keeps the table of places in float32, whatever the rest is in.
    states = (states.gather(1, chosen) + places).to(states.dtype)
    for layer in tower.layers:
        states = layer(states, attention_mask=windows.bias)
    states = tower.layer_norm(states)
    count, positions, width = states.shape
    tokens = states.reshape(count, positions // TOKEN_STATES, TOKEN_STATES * width)
    embeddings: torch.Tensor = model.model.multi_modal_projector(tokens)
    return embeddings


def _positions(layout: Layout, rows: int) -> torch.Tensor:
    """Where the states of each row stand in the window, int64 [4 * rows]."""
    first = layout.span - WINDOW_TOKENS
    tokens = torch.zeros(rows, dtype=torch.long)
    tokens[: layout.last_rows] = torch.tensor(layout.places[-layout.last_rows :]) - first
    return (tokens[:, None] * TOKEN_STATES + torch.arange(TOKEN_STATES)).flatten()


def _sources(layout: Layout, rows: int, states: int) -> torch.Tensor:
    """Which of so many states of the convolutions each position takes, int64 [4 * rows]."""
    sound = layout.sound * TOKEN_STATES
    # A state with nothing but silence within its reach.
    sources = torch.full((rows * TOKEN_STATES,), sound + TOKEN_STATES - 1)
    sources[:sound] = torch.arange(sound)
    # The last token sees the end of its window, as the last states of these features do.
    last = layout.last_rows * TOKEN_STATES
    sources[last - TOKEN_STATES : last] = torch.arange(states - TOKEN_STATES, states)
    return sources
