"""Windows are encoded a few at a time, whoever waits for them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.embeddings import Embeddings
from voxtral_worker.engine.encoder import WINDOWS_AT_ONCE, Encoder
from voxtral_worker.engine.encoder_batcher import EncoderBatcher
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.layout import EXACT
from voxtral_worker.engine.model import LoadedModel, load_model
from voxtral_worker.engine.recording import Recording
from voxtral_worker.settings import EMBEDDED_MODEL, Settings


def batcher_of(
    encoder: Encoder, loaded: LoadedModel, window_tail: str = EXACT
) -> tuple[Embeddings, EncoderBatcher]:
    embeddings = Embeddings(loaded.device, 0)
    return embeddings, EncoderBatcher(loaded, encoder, embeddings, window_tail)


def test_a_piece_that_several_wait_for_is_encoded_once(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WINDOWS_AT_ONCE, "cpu", 8)
    embeddings, batcher = batcher_of(Encoder(loaded), loaded)
    pieces = [Audio(np.full(1600, level, np.float32)) for level in (0.1, 0.2)]
    batcher.encode_some([*pieces, *pieces, pieces[0]])
    for piece in pieces:
        assert piece in embeddings
        assert len(embeddings.rows(piece, 0, 1000)) == 375
        # They may have to be encoded again.
        assert len(piece.samples) == 1600


def test_what_is_begun_is_dropped_when_nobody_waits_for_it(loaded: LoadedModel) -> None:
    embeddings, batcher = batcher_of(Encoder(loaded), loaded)
    long, short = Audio(np.zeros(700_000, np.float32)), Audio(np.zeros(1600, np.float32))
    batcher.encode_some([long])
    assert list(batcher._begun) == [long.audio_id]
    batcher.encode_some([short, long])
    assert short in embeddings
    assert list(batcher._begun) == [long.audio_id]
    batcher.encode_some([])
    assert not batcher._begun
    assert long not in embeddings


class FakeRecorder:
    """Records by remembering the work; fails if told so."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.recorded = 0

    def record(self, work: Callable[[], torch.Tensor]) -> Recording:
        self.recorded += 1
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        output = work()
        return Recording(lambda: output.copy_(work()), output)


def test_recorded_windows_are_encoded_as_others_are(loaded: LoadedModel) -> None:
    recorder = FakeRecorder()
    recorded, plain = Encoder(loaded, recorder), Encoder(loaded)
    recorded.prepare()
    assert recorder.recorded == 1
    mels = loaded.model.config.audio_config.num_mel_bins
    first, second = torch.randn(1, mels, 3000), torch.randn(3, mels, 3000)
    kept = recorded.encode(first), recorded.encode(second), recorded.encode(second[:1])
    expected = plain.encode(first), plain.encode(second), plain.encode(second[:1])
    for one, other in zip(kept, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    # Three windows are filled up to four.
    assert recorder.recorded == 2


def test_windows_that_cannot_be_recorded_are_encoded_all_the_same(loaded: LoadedModel) -> None:
    recorder = FakeRecorder(fails=True)
    encoder = Encoder(loaded, recorder)
    windows = torch.randn(1, loaded.model.config.audio_config.num_mel_bins, 3000)
    for _ in range(2):
        assert torch.equal(encoder.encode(windows), Encoder(loaded).encode(windows))
    assert recorder.recorded == 1


@pytest.mark.timeout(600)
def test_a_compiled_encoder_compiles_nothing_after_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WINDOWS_AT_ONCE, "cpu", 8)
    settings = Settings(model_id=str(EMBEDDED_MODEL), device="cpu", dtype="float32")
    fresh = load_model(settings)
    # As ENABLE_TORCH_COMPILE does, with a compiler that takes no time.
    fresh.model.model.audio_tower.compile(backend="eager")
    engine = Engine(fresh, settings)
    # As with that setting: no hooks in compiled code.
    engine._has_long_layers = False
    engine.start()
    engine.warm_up()
    engine.stop()
    compiled = counters["stats"]["unique_graphs"]
    assert compiled > 0
    embeddings, batcher = batcher_of(Encoder(fresh), fresh)
    for size in range(1, 9):
        pieces = [Audio(np.full(1600, 0.1, np.float32)) for _ in range(size)]
        batcher.encode_some(pieces)
        assert pieces[-1] in embeddings
    assert counters["stats"]["unique_graphs"] == compiled
