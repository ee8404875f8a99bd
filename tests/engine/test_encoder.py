"""Windows are encoded a few at a time, whichever requests wait for them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from tests.support.batching import batcher_of
from tests.support.embedded_model import EMBEDDED
from tests.support.fake_recorder import FakeRecorder
from tests.support.light_model import load_light_model
from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.encoder import WINDOWS_AT_ONCE, Encoder
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.model import LoadedModel


def test_a_piece_that_several_wait_for_is_encoded_once(
    light: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WINDOWS_AT_ONCE, "cpu", 8)
    embeddings, batcher = batcher_of(Encoder(light), light)
    pieces = [Audio(np.full(1600, level, np.float32)) for level in (0.1, 0.2)]
    batcher.encode_some([*pieces, *pieces, pieces[0]])
    for piece in pieces:
        assert piece in embeddings
        assert len(embeddings.rows(piece, 0, 1000)) == 375
        # They may have to be encoded again.
        assert len(piece.samples) == 1600


def test_what_is_begun_is_dropped_when_nobody_waits_for_it(light: LoadedModel) -> None:
    embeddings, batcher = batcher_of(Encoder(light), light)
    long, short = Audio(np.zeros(700_000, np.float32)), Audio(np.zeros(1600, np.float32))
    # Each call encodes one window; the long piece has two.
    batcher.encode_some([long])
    batcher.encode_some([short, long])
    assert short in embeddings
    batcher.encode_some([long])
    assert long in embeddings
    other = Audio(np.zeros(700_000, np.float32))
    batcher.encode_some([other])
    batcher.encode_some([])
    batcher.encode_some([other])
    assert other not in embeddings
    batcher.encode_some([other])
    assert other in embeddings


def test_recorded_windows_are_encoded_as_others_are(light: LoadedModel) -> None:
    recorder = FakeRecorder()
    recorded, plain = Encoder(light, recorder), Encoder(light)
    recorded.prepare()
    assert recorder.recorded == 1
    mels = light.model.config.audio_config.num_mel_bins
    first, second = torch.randn(1, mels, 3000), torch.randn(3, mels, 3000)
    kept = recorded.encode(first), recorded.encode(second), recorded.encode(second[:1])
    expected = plain.encode(first), plain.encode(second), plain.encode(second[:1])
    for one, other in zip(kept, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    # Three windows are filled up to four.
    assert recorder.recorded == 2


def test_windows_that_cannot_be_recorded_are_encoded_all_the_same(light: LoadedModel) -> None:
    recorder = FakeRecorder(fails=True)
    encoder = Encoder(light, recorder)
    windows = torch.randn(1, light.model.config.audio_config.num_mel_bins, 3000)
    for _ in range(2):
        assert torch.equal(encoder.encode(windows), Encoder(light).encode(windows))
    assert recorder.recorded == 1


def test_a_compiled_encoder_compiles_nothing_after_warm_up(
    light_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WINDOWS_AT_ONCE, "cpu", 8)
    fresh = load_light_model(light_folder)
    # As ENABLE_TORCH_COMPILE does, with a compiler that takes no time.
    fresh.model.model.audio_tower.compile(backend="eager")
    core = EngineCore(fresh, EMBEDDED)
    # As with that setting: no hooks in compiled code.
    core.long_layers = []
    engine = Engine(core)
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
