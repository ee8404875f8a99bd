"""The losses on sampled windows, through transformers' own layers."""

from typing import Any

import torch
import torch.nn.functional as F

from builder.voxtral_tiny.batch import AUDIO_PLACE, Batch
from builder.voxtral_tiny.tokenizer import PAD


def answer_loss(model: Any, batch: Batch, embeddings: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the answers, given the audio embeddings [A, G, text width]."""
    logits, labels, weights = _answers(model, batch, embeddings)
    losses = F.cross_entropy(logits.float(), labels, reduction="none")
    return (losses * weights).sum() / weights.sum()


@torch.inference_mode()
def likeliest(model: Any, batch: Batch, embeddings: torch.Tensor) -> torch.Tensor:
    """The likeliest token wherever one is learned, int [B, T]; -100 elsewhere.

    Where all of an answer's are those that are learned, it is what is generated greedily.
    """
    logits, _, _ = _answers(model, batch, embeddings)
    found = torch.full_like(batch.labels, -100)
    found[:, 1:][batch.labels[:, 1:] != -100] = logits.argmax(-1)
    return found


def _answers(
    model: Any, batch: Batch, embeddings: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits [n, vocabulary], labels [n] and weights [n] of all tokens that are learned."""
    table = model.get_input_embeddings()
    is_audio = batch.ids == AUDIO_PLACE
    inputs = table(batch.ids.masked_fill(is_audio, PAD))
    rows = embeddings.flatten(0, 1)[batch.audio_index.clamp(min=0)]
    inputs = torch.where(is_audio[..., None], rows.to(inputs.dtype), inputs)
    length = batch.ids.shape[1]
    causal = torch.full((length, length), -torch.inf, device=inputs.device).triu(1)
    mask = causal[None, None] + batch.key_bias[:, None, None, :]
    keys, queries = batch.branches[:, None, None, :], batch.branches[:, None, :, None]
    mask = mask.masked_fill((keys > 0) & (keys != queries), -torch.inf)
    # A row of padding must see something, or softmax has nothing to share out.
    mask = mask.clamp(min=-1e9)
    states = model.model.language_model(
        inputs_embeds=inputs, attention_mask=mask, position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    wanted = batch.labels[:, 1:] != -100
    logits = model.lm_head(states[:, :-1][wanted])
    return logits, batch.labels[:, 1:][wanted], batch.weights[:, 1:][wanted]


def piece_loss(model: Any, batch: Batch, embeddings: torch.Tensor) -> torch.Tensor:
    """CTC over tokens at the projector, through the language model's own head."""
    scores = model.lm_head(embeddings).float().log_softmax(-1).transpose(0, 1)
    lengths = batch.sound_lengths.clamp(max=scores.shape[0])
    return F.ctc_loss(
        scores, batch.pieces, lengths, batch.piece_lengths, blank=PAD, zero_infinity=True
    )
