"""Chooses the next token of every sequence of a batch, each by its own temperature and top_p.

Nucleus sampling as in Holtzman et al. 2019, "The Curious Case of Neural Text Degeneration"
(arXiv:1904.09751): of the sorted probabilities the smallest set that reaches top_p is kept,
at least one token.
"""

import torch


def sample(logits: torch.Tensor, temperature: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Token ids, int64 [B], from logits, float [B, vocabulary].

    `temperature` and `top_p` are float32 [B] on the same device; temperature 0 is greedy.
    """
    greedy = logits.argmax(dim=-1)
    warm = temperature > 0
    if not bool(warm.any()):
        return greedy
    scaled = logits.float() / torch.where(warm, temperature, 1.0).unsqueeze(-1)
    probabilities, ids = scaled.softmax(dim=-1).sort(dim=-1, descending=True)
    before = probabilities.cumsum(dim=-1) - probabilities
    beyond = before >= top_p.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(-1)
    probabilities = probabilities.masked_fill(beyond, 0.0)
    chosen = torch.multinomial(probabilities, 1)
    return torch.where(warm, ids.gather(-1, chosen).squeeze(-1), greedy)
