"""Windows are encoded a few at a time, whoever waits for them."""

import numpy as np
import pytest
import torch

from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.encoder import WINDOWS_AT_ONCE, Encoder
from voxtral_worker.engine.model import LoadedModel


def test_a_piece_that_several_wait_for_is_encoded_once(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WINDOWS_AT_ONCE, "cpu", 8)
    encoder = Encoder(loaded)
    pieces = [Audio(np.full(1600, level, np.float32)) for level in (0.1, 0.2)]
    encoder.encode_some([*pieces, *pieces, pieces[0]])
    for piece in pieces:
        assert isinstance(piece.embeddings, torch.Tensor)
        assert len(piece.embeddings) == piece.tokens
        assert not len(piece.samples)
