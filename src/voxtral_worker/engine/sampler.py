"""Chooses the next token of every sequence of a batch, each by its own temperature and top_p.

Nucleus sampling as in Holtzman et al. 2019, "The Curious Case of Neural Text Degeneration"
(arXiv:1904.09751): of the sorted probabilities the smallest set that reaches top_p is kept,
at least one token. A token is drawn by the Gumbel trick: argmax(logit - log(Exp(1))) has the
distribution softmax(logits), and needs nothing from the host.

A row with a seed draws with noise of its own, one number for each token of the vocabulary, so
that neither the other rows nor the order of near-equal tokens changes what it draws.
"""

import hashlib
from collections.abc import Mapping, Sequence

import torch

# The most likely tokens that are sorted to find top_p; few distributions need more.
NUCLEUS_TOKENS = 512
TINY = torch.finfo(torch.float32).tiny

# By row: noise, float32 [vocabulary], that replaces the draw for this row.
OwnNoise = Mapping[int, torch.Tensor]


def step_seed(seed: int, step: int) -> int:
    """The seed for token number `step` of a response that has a seed."""
    digest = hashlib.blake2b(f"{seed} {step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


@torch.inference_mode()
def sample_rows(
    logits: torch.Tensor,
    temperatures: Sequence[float],
    top_ps: Sequence[float],
    seeds: Mapping[int, int] | None = None,
) -> tuple[list[int], list[bool]]:
    """Choose a token for each row of logits, float [B, vocabulary].

    Returns token ids [B], and whether each row is usable [B]. A row is not usable when it holds
    NaN or +inf, or nothing above -inf; its token means nothing. Temperature 0 is greedy. `seeds`,
    by row: the token of such a row depends on its own logits and seed alone. Waits for the device
    once, or twice when a nucleus of more than NUCLEUS_TOKENS has to be found by sorting everything.
    """
    settings = _to_device([temperatures, top_ps], logits.device)
    noise = {row: _noise_of(seed, logits) for row, seed in (seeds or {}).items()}
    is_warm = [temperature > 0 for temperature in temperatures]
    chosen = choose(
        logits,
        settings,
        draws_all=any(w and p >= 1 for w, p in zip(is_warm, top_ps, strict=True)),
        draws_nucleus=any(w and p < 1 for w, p in zip(is_warm, top_ps, strict=True)),
        noise=noise,
    )
    token_ids, finite, too_wide = chosen.tolist()
    rows = [row for row, is_too_wide in enumerate(too_wide) if is_too_wide and finite[row]]
    if rows:
        wide = logits[rows] if len(rows) < len(logits) else logits
        own = {place: noise[row] for place, row in enumerate(rows) if row in noise}
        drawn = _draw_sorted(wide, settings[:, rows], own).tolist()
        for row, token_id in zip(rows, drawn, strict=True):
            token_ids[row] = token_id
    return token_ids, [bool(each) for each in finite]


def choose(
    logits: torch.Tensor,
    settings: torch.Tensor,
    *,
    draws_all: bool,
    draws_nucleus: bool,
    noise: OwnNoise | None = None,
) -> torch.Tensor:
    """Token ids, whether rows are usable, whether nuclei are too wide: int64 [3, B].

    `settings`, float32 [2, B]: temperatures and top_p. `draws_all`: some row is warm with
    top_p 1; `draws_nucleus`: some row is warm with a smaller one. Never waits for the device.
    """
    # The maximum of a row that holds NaN is NaN.
    best, token_ids = logits.max(dim=-1)
    too_wide = torch.zeros_like(token_ids)
    if draws_all or draws_nucleus:
        temperature, top_p = settings
        own = noise or {}
        is_warm, is_nucleus = temperature > 0, top_p < 1
        scaled = logits / torch.where(is_warm, temperature, 1.0)[:, None]
        if draws_all:
            token_ids = torch.where(is_warm & ~is_nucleus, _draw(scaled, own), token_ids)
        if draws_nucleus:
            drawn, reaches = _draw_nucleus(scaled, top_p, own)
            token_ids = torch.where(is_warm & is_nucleus, drawn, token_ids)
            too_wide = (is_warm & is_nucleus & ~reaches).long()
    return torch.stack([token_ids, best.isfinite().long(), too_wide])


def _draw(scaled: torch.Tensor, own: OwnNoise, ids: torch.Tensor | None = None) -> torch.Tensor:
    """Draw a place [B] in each row of `scaled`; `ids`, int64 of its shape: the tokens there."""
    noise = torch.empty_like(scaled).exponential_()
    for row, of_tokens in own.items():
        noise[row] = of_tokens if ids is None else of_tokens[ids[row]]
    return noise.clamp_min_(TINY).log_().neg_().add_(scaled).argmax(dim=-1)


def _noise_of(seed: int, logits: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator(logits.device).manual_seed(seed)
    noise = torch.empty(logits.shape[-1], dtype=torch.float32, device=logits.device)
    return noise.exponential_(generator=generator)


def _draw_nucleus(
    scaled: torch.Tensor, top_p: torch.Tensor, own: OwnNoise
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, [B], and whether the tokens that were looked at reach top_p, bool [B]."""
    values, ids = scaled.topk(min(NUCLEUS_TOKENS, scaled.shape[-1]), dim=-1)
    probabilities = (values - scaled.logsumexp(dim=-1, keepdim=True)).exp()
    reached = probabilities.cumsum(dim=-1)
    beyond = reached - probabilities >= top_p.clamp(min=TINY)[:, None]
    place = _draw(values.masked_fill(beyond, float("-inf")), own, ids)
    # All tokens of a small vocabulary are a nucleus, whatever rounding makes of their sum.
    reaches = (reached[:, -1] >= top_p) | (values.shape[-1] == scaled.shape[-1])
    return ids.gather(-1, place[:, None])[:, 0], reaches


def _draw_sorted(logits: torch.Tensor, settings: torch.Tensor, own: OwnNoise) -> torch.Tensor:
    temperature, top_p = settings
    scaled = logits / temperature[:, None]
    probabilities, ids = scaled.softmax(dim=-1).sort(dim=-1, descending=True)
    beyond = probabilities.cumsum(dim=-1) - probabilities >= top_p[:, None]
    place = _draw(probabilities.log().masked_fill(beyond, float("-inf")), own, ids)
    drawn: torch.Tensor = ids.gather(-1, place[:, None])[:, 0]
    return drawn


def _to_device(numbers: Sequence[Sequence[float]], device: torch.device) -> torch.Tensor:
    is_pinned = device.type == "cuda" and torch.cuda.is_available()
    host = torch.tensor(numbers, dtype=torch.float32, pin_memory=is_pinned)
    return host.to(device, non_blocking=True)
