"""The model's forward pass on sampled windows, through transformers' own layers."""

from typing import Any

import torch
import torch.nn.functional as F

from builder.voxtral_tiny.batch import AUDIO_PLACE, Batch
from builder.voxtral_tiny.tokenizer import PAD


def encode(model: Any, batch: Batch) -> torch.Tensor:
    """Encoder states, float [A, G * 4, width], for the groups of the batch."""
    tower = model.model.audio_tower
    hidden = F.gelu(tower.conv2(F.gelu(tower.conv1(batch.features)))).transpose(1, 2)
    sound = hidden.shape[1]
    # Three positions before the end both convolutions see nothing but silence, as they do
    # everywhere else in the silent groups.
    silence = hidden[:, sound - 4 : sound - 3]
    lead, tail = batch.lead * 4, (len(batch.groups) - batch.lead) * 4 - sound
    hidden = torch.cat([silence.expand(-1, lead, -1), hidden, silence.expand(-1, tail, -1)], dim=1)
    places = (batch.groups[:, None] * 4 + torch.arange(4, device=batch.groups.device)).flatten()
    hidden = hidden + tower.embed_positions.weight[places]
    bias = batch.bias.repeat_interleave(4)[None, None, None, :]
    bias = bias.expand(len(hidden), 1, hidden.shape[1], -1)
    for layer in tower.layers:
        hidden = layer(hidden, bias)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    states: torch.Tensor = tower.layer_norm(hidden)
    return states


def project(model: Any, states: torch.Tensor) -> torch.Tensor:
    """Audio embeddings, float [A, G, text width]."""
    stacked = states.reshape(len(states), -1, 4 * states.shape[-1])
    embeddings: torch.Tensor = model.model.multi_modal_projector(stacked)
    return embeddings


def answer_loss(model: Any, batch: Batch, embeddings: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the answers, given the audio embeddings."""
    table = model.get_input_embeddings()
    is_audio = batch.ids == AUDIO_PLACE
    inputs = table(batch.ids.masked_fill(is_audio, PAD))
    rows = embeddings.flatten(0, 1)[batch.audio_index.clamp(min=0)]
    inputs = torch.where(is_audio[..., None], rows, inputs)
    length = batch.ids.shape[1]
    causal = torch.full((length, length), -torch.inf, device=inputs.device).triu(1)
    mask = causal[None, None] + batch.key_bias[:, None, None, :]
    # A row of padding must see something, or softmax has nothing to share out.
    mask = mask.clamp(min=-1e9)
    states = model.model.language_model(
        inputs_embeds=inputs, attention_mask=mask, position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    wanted = batch.labels[:, 1:] != -100
    logits = model.lm_head(states[:, :-1][wanted])
    return F.cross_entropy(logits, batch.labels[:, 1:][wanted])


def character_loss(head: torch.nn.Linear, batch: Batch, states: torch.Tensor) -> torch.Tensor:
    """CTC over characters on the encoder's states (20 ms a position)."""
    return _ctc(
        head(states[:, batch.lead * 4 :]),
        batch.sound_lengths * 4,
        batch.characters,
        batch.character_lengths,
        blank=0,
    )


def piece_loss(model: Any, batch: Batch, embeddings: torch.Tensor) -> torch.Tensor:
    """CTC over tokens at the projector, through the language model's own head."""
    return _ctc(
        model.lm_head(embeddings[:, batch.lead :]),
        batch.sound_lengths,
        batch.pieces,
        batch.piece_lengths,
        blank=PAD,
    )


def _ctc(
    logits: torch.Tensor,
    lengths: torch.Tensor,
    targets: torch.Tensor,
    target_lengths: torch.Tensor,
    blank: int,
) -> torch.Tensor:
    scores = logits.float().log_softmax(-1).transpose(0, 1)
    lengths = lengths.clamp(max=scores.shape[0])
    return F.ctc_loss(scores, targets, lengths, target_lengths, blank, zero_infinity=True)
