"""What a GPU would be asked to do at the released shape, on a machine that has none."""

import collections
import itertools
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import VoxtralConfig, VoxtralForConditionalGeneration, WhisperFeatureExtractor

from tests.support.random_model import RELEASED, config_of
from voxtral_worker.engine import paged_kernel
from voxtral_worker.engine.calibration import session_tokens
from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.decoding import SIZES
from voxtral_worker.engine.embeddings import Embeddings
from voxtral_worker.engine.encoder import Encoder
from voxtral_worker.engine.features import FeatureExtractor
from voxtral_worker.engine.kv_cache import Admission, blocks_for
from voxtral_worker.engine.memory import plan
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.model_runner import ModelRunner
from voxtral_worker.engine.plan import Chunk
from voxtral_worker.engine.prompt import Prompt
from voxtral_worker.engine.recording import Recording
from voxtral_worker.engine.sampler import choose
from voxtral_worker.engine.sequence import Sequence
from voxtral_worker.engine.short_window import ShortWindows
from voxtral_worker.settings import Settings

WAITS = ("_local_scalar_dense", "nonzero", "masked_select")
AUDIO_TOKEN = 24
_ids = itertools.count(1)
VIEWS = {
    *("device", "view", "transpose", "select", "slice", "unsqueeze", "expand", "reshape"),
    *("t", "flatten", "detach", "alias", "split", "unbind", "_unsafe_view"),
}


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts kernels, bytes, and what waits for the device or copies from the host."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels: collections.Counter[str] = collections.Counter()
        self.forbidden: list[str] = []
        self.waits: list[str] = []
        self.peak_bytes = self._bytes = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        self._known.update(storage for storage, _ in _storages((args, kwargs)))
        out = func(*args, **(kwargs or {}))
        devices = {t.device.type for t in [*args, out] if isinstance(t, torch.Tensor)}
        self._note_bytes(out)
        if name in WAITS:
            self.waits.append(name)
        if name in WAITS or len(devices) > 1:
            self.forbidden.append(f"{name} {devices}")
        if "cuda" in devices and name not in VIEWS and not name.startswith(("empty", "new_empty")):
            self.kernels[name] += 1
        return out

    def _note_bytes(self, out: Any) -> None:
        """What was made since this began, and is still held."""
        for storage, size in _storages(out):
            if storage not in self._known:
                self._known.add(storage)
                self._bytes += size
                weakref.finalize(storage, self._let_go, size)
        self.peak_bytes = max(self.peak_bytes, self._bytes)

    def _let_go(self, size: int) -> None:
        self._bytes -= size


class WatchingRecorder:
    """Watches one run of what CUDA would record, by the number of rows or windows."""

    def __init__(self) -> None:
        self.watched: dict[int, Watch] = {}
        self.outputs: dict[int, torch.Tensor] = {}

    def record(self, work: Callable[[], torch.Tensor]) -> Recording:
        with Watch() as watch:
            output = work()
        self.watched[len(output)], self.outputs[len(output)] = watch, output
        return Recording(lambda: None, output)


def _storages(tree: Any) -> list[tuple[Any, int]]:
    """What the device's tensors in arguments or results are stored in, and its bytes."""
    found = [t for t in tree_leaves(tree) if isinstance(t, torch.Tensor)]
    storages = [t.untyped_storage() for t in found if t.device.type == "cuda"]
    return [(storage, storage.nbytes()) for storage in storages]


@pytest.fixture(scope="module")
def loaded() -> Iterator[LoadedModel]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device("cuda"):
                config = VoxtralConfig.from_dict(config_of(RELEASED))
                model = VoxtralForConditionalGeneration(config).eval()
        finally:
            torch.set_default_dtype(torch.float32)
        processor = SimpleNamespace(feature_extractor=WhisperFeatureExtractor(feature_size=128))
        cuda = torch.device("cuda")
        yield LoadedModel(model, processor, "", None, cuda, torch.bfloat16)


@pytest.fixture
def embeddings(loaded: LoadedModel) -> Embeddings:
    return Embeddings(loaded.device, 0)


@pytest.fixture
def recorder() -> WatchingRecorder:
    return WatchingRecorder()


@pytest.fixture
def runner(
    loaded: LoadedModel,
    embeddings: Embeddings,
    recorder: WatchingRecorder,
    monkeypatch: pytest.MonkeyPatch,
) -> ModelRunner:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (14 << 30, 24 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda *_: 9 << 30)
    monkeypatch.setattr(paged_kernel, "decode", lambda *_: None)
    settings = Settings(device="cuda", max_batch_size=32)
    return ModelRunner(loaded, settings, embeddings=embeddings, recorder=recorder)


def test_a_step_of_the_released_shape_can_be_recorded(
    runner: ModelRunner, recorder: WatchingRecorder
) -> None:
    runner.prepare()
    assert list(reversed(recorder.watched)) == [size for size in SIZES if size <= 32]
    for rows, watch in recorder.watched.items():
        assert recorder.outputs[rows].shape == (rows, RELEASED.vocabulary)
        assert watch.forbidden == []
        # Ratchets, here and below: each kernel takes about 2 us of a GPU.
        assert sum(watch.kernels.values()) < 1300
        # The largest comes first, and makes the tensor that all write their logits to.
        kept = 32 * RELEASED.vocabulary * 2 if rows == 32 else 0
        assert watch.peak_bytes - kept < rows * 300 << 10


def test_a_step_that_gathers_needs_nothing_of_the_host(
    runner: ModelRunner, recorder: WatchingRecorder
) -> None:
    assert runner.steps is not None
    runner.steps.attention = "gathered"
    runner.prepare()
    assert [watch.forbidden for watch in recorder.watched.values()] == [[]] * 7


@pytest.mark.parametrize("gigabytes", [24, 48, 80])
def test_the_docs_hold_what_a_card_is_computed_to_hold(loaded: LoadedModel, gigabytes: int) -> None:
    fraction = Settings().gpu_memory_fraction
    card = plan(gigabytes << 30, loaded, fraction, session_tokens("exact"))
    sampled = plan(gigabytes << 30, loaded, fraction, session_tokens("sampled"))
    row = f"| {gigabytes} GiB | {card.kv_tokens:,} | {card.sessions} | {sampled.sessions:,} |"
    docs = Path(__file__).resolve().parents[2] / "docs" / "engine.md"
    assert row in docs.read_text("utf-8").splitlines()


def test_fifty_sessions_of_1600_tokens_fit_into_24_gb(runner: ModelRunner) -> None:
    assert runner.blocks * 16 >= 50 * 1600


@pytest.mark.parametrize("windows", [1, 2, 4, 8])
def test_the_encoder_of_the_released_shape_can_be_recorded(
    loaded: LoadedModel, windows: int
) -> None:
    sound = torch.empty(windows, 128, 3000, dtype=torch.bfloat16, device="cuda")
    recorder = WatchingRecorder()
    rows = Encoder(loaded, recorder).encode(sound)
    watch = recorder.watched[windows]
    assert rows.shape == (windows, 375, RELEASED.hidden)
    assert watch.forbidden == []
    assert sum(watch.kernels.values()) < 700
    assert watch.peak_bytes < windows * 45 << 20


@pytest.mark.parametrize("rows", [32, 96, 374])
def test_a_short_window_of_the_released_shape_can_be_recorded(
    loaded: LoadedModel, rows: int
) -> None:
    recorder = WatchingRecorder()
    encoder = Encoder(loaded, recorder, window_tail="sampled")
    windows = ShortWindows(
        torch.empty(8, 128, 8 * rows, dtype=torch.bfloat16, device="cuda"),
        torch.zeros(8, 4 * rows, dtype=torch.long, device="cuda"),
        torch.zeros(8, 4 * rows, dtype=torch.long, device="cuda"),
        torch.zeros(8, 1, 1, 4 * rows, dtype=torch.bfloat16, device="cuda"),
    )
    embeddings, watch = encoder.encode_short(windows), recorder.watched[8]
    assert embeddings.shape == (8, rows, RELEASED.hidden)
    assert watch.forbidden == []
    assert sum(watch.kernels.values()) < 750
    assert watch.peak_bytes < 8 * 60 << 20


@pytest.mark.parametrize("draws_all", [False, True])
@pytest.mark.parametrize("draws_nucleus", [False, True])
def test_choosing_tokens_never_waits(
    loaded: LoadedModel, draws_all: bool, draws_nucleus: bool
) -> None:
    logits = torch.empty(32, RELEASED.vocabulary, dtype=torch.bfloat16, device="cuda")
    settings = torch.empty(2, 32, device="cuda")
    with torch.inference_mode(), Watch() as watch:
        chosen = choose(logits, settings, draws_all=draws_all, draws_nucleus=draws_nucleus)
    assert chosen.shape == (3, 32)
    assert watch.forbidden == []
    assert "sort" not in watch.kernels
    assert watch.peak_bytes < 34 << 20


def chunk_of(
    runner: ModelRunner, embeddings: Embeddings, rows: int, context: int, audio_tokens: int = 0
) -> Chunk:
    """The next `rows` tokens of a prompt behind `context` others; some of them are audio's."""
    tokens = context + rows
    ids, audio = [0] * tokens, Audio(np.zeros(1600, np.float32))
    ids[context + 1 : context + 1 + audio_tokens] = [AUDIO_TOKEN] * audio_tokens
    pieces = (audio,) if audio_tokens else ()
    sequence = Sequence(next(_ids), Prompt(tuple(ids), pieces, audio_token_id=AUDIO_TOKEN), 1)
    sequence.place(Admission(tuple(range(blocks_for(tokens))), 0))
    runner.place(sequence)
    if audio_tokens:
        shape = (audio_tokens, RELEASED.hidden)
        embedded = torch.empty(shape, dtype=torch.bfloat16, device="cuda")
        embeddings.add(audio, embedded)
    return Chunk(sequence, context, tokens)


@pytest.fixture
def no_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a driver, numbers of the host cannot be copied to the device: their place can."""
    made = torch.tensor

    def empty(data: Any, device: Any = None, dtype: Any = None) -> torch.Tensor:
        like = made(data, dtype=dtype)
        return torch.empty(like.shape, dtype=like.dtype, device=device)

    monkeypatch.setattr(torch, "tensor", empty)


@pytest.mark.usefixtures("no_constants")
@pytest.mark.parametrize(
    ("prompts", "kernels", "mebibytes"),
    [
        # A spoken turn, alone and several of them.
        ([(390, 0, 375)], 1300, 30),
        ([(390, 0, 375)] * 4, 1500, 115),
        # Behind a conversation, and the end of the longest prompt that there is.
        ([(390, 1600, 375)], 1420, 60),
        ([(64, 32_000, 0)], 1420, 660),
        # The most that one step takes on the fastest card.
        ([(2048, 0, 0)], 1300, 150),
    ],
)
def test_a_prompt_of_the_released_shape_is_computed_without_waiting(
    runner: ModelRunner,
    embeddings: Embeddings,
    prompts: list[tuple[int, int, int]],
    kernels: int,
    mebibytes: int,
) -> None:
    chunks = [chunk_of(runner, embeddings, *prompt) for prompt in prompts]
    with Watch() as watch:
        logits = runner.step(chunks)
    assert logits.shape == (len(prompts), RELEASED.vocabulary)
    assert watch.waits == []
    assert sum(watch.kernels.values()) < kernels
    assert watch.peak_bytes < mebibytes << 20


@pytest.mark.parametrize("seconds", [0.5, 3, 30, 95])
def test_features_are_made_on_the_device_in_one_shape(loaded: LoadedModel, seconds: float) -> None:
    extractor = FeatureExtractor(
        WhisperFeatureExtractor(feature_size=128), torch.device("cuda"), torch.bfloat16
    )
    with Watch() as watch:
        features = extractor.windows(np.zeros(int(16_000 * seconds), np.float32))
    windows = -(-int(seconds) // 30) or 1
    assert features.shape == (windows, 128, 3000)
    assert features.device.type == "cuda"
    assert watch.waits == []
    assert watch.peak_bytes < 5 + windows * 11 << 20
