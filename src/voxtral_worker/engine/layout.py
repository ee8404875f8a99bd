"""Says which audio tokens of a window are computed, and how many each of them stands for.

Voxtral fills every utterance up to 30 s. Behind the sound a window's content is constant and only
positions differ. Attention sums over these tokens, and a few of them approximate the sum: a token
that stands for `w` tokens gets `log(w)` added to its scores. Merged tokens of image encoders are
weighted in the same way (Bolya et al., 2022, "Token Merging: Your ViT But Faster").
"""

import math
from dataclasses import dataclass
from functools import lru_cache

# Samples of sound that one audio token takes, and audio tokens of a window.
TOKEN_SAMPLES = 1280
WINDOW_TOKENS = 375
# Frames of features, and positions of the encoder, that one audio token takes.
TOKEN_FRAMES = 8
TOKEN_STATES = 4
EXACT, SAMPLED = "exact", "sampled"
WINDOW_TAILS = (EXACT, SAMPLED)
# Tokens behind the sound that are computed with it: convolutions and the Fourier window still see
# the sound there.
MARGIN_TOKENS = 2
# Tokens of the silent rest that are computed. With more no difference could be measured.
NODES = 16


@dataclass(frozen=True)
class Layout:
    """The rows that a piece of audio takes in a prompt, one for each row of its embeddings.

    `places` are the rows' positions within the piece, ascending, in [0, span); `log_weights`
    are added to the scores of attention to them. Of the last window the first `sound` rows are
    neighbours and the others stand for its silent rest.
    """

    span: int
    sound: int
    places: tuple[int, ...]
    log_weights: tuple[float, ...]

    @property
    def rows(self) -> int:
        """Tokens that it takes in a prompt."""
        return len(self.places)

    @property
    def windows(self) -> int:
        """Windows of the encoder that it takes."""
        return self.span // WINDOW_TOKENS

    @property
    def last_rows(self) -> int:
        """Rows of its last window; all others are whole."""
        return self.rows - (self.windows - 1) * WINDOW_TOKENS

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return self.rows == self.span


def layout_of(samples: int, window_tail: str) -> Layout:
    """The layout of audio of so many samples at 16 kHz; `window_tail` is EXACT or SAMPLED."""
    window = WINDOW_TOKENS * TOKEN_SAMPLES
    windows = max(1, -(-samples // window))
    in_last = samples - (windows - 1) * window
    sound = min(WINDOW_TOKENS, -(-in_last // TOKEN_SAMPLES) + MARGIN_TOKENS)
    return _layout(windows, WINDOW_TOKENS if window_tail == EXACT else sound)


@lru_cache(4096)
def _layout(windows: int, sound: int) -> Layout:
    span, first = windows * WINDOW_TOKENS, (windows - 1) * WINDOW_TOKENS
    rest = WINDOW_TOKENS - sound
    if rest <= NODES:
        return Layout(span, WINDOW_TOKENS, tuple(range(span)), (0.0,) * span)
    # The last token stands for itself, as its window ends there. The others stand in the middle of
    # equal cells.
    cells = NODES - 1
    size = (rest - 1) / cells
    nodes = [(2 * cell + 1) * (rest - 1) // (2 * cells) for cell in range(cells)] + [rest - 1]
    places = (*range(first + sound), *(first + sound + node for node in nodes))
    weights = (math.log(size),) * cells + (0.0,)
    return Layout(span, sound, places, (0.0,) * (first + sound) + weights)
