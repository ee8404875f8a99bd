"""Where the model comes from, and how a load that fails is reported."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.test_checkpoint import SHARDS, make_checkpoint
from voxtral_worker.checkpoint import find_cached
from voxtral_worker.engine.model import (
    LoadedModel,
    choose_device,
    choose_model,
    load_model,
)
from voxtral_worker.errors import LoadFailure
from voxtral_worker.settings import EMBEDDED_MODEL, RELEASED_MODEL, Settings

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


def make_snapshot(cache: Path, commit: str) -> Path:
    folder = cache / "models--mistralai--Voxtral" / "snapshots" / commit
    return make_checkpoint(folder)


def test_the_model_is_the_one_by_setting_or_the_one_that_fits() -> None:
    assert choose_model(Settings(model_id="a/b"), CUDA) == "a/b"
    assert choose_model(Settings(), CUDA) == RELEASED_MODEL
    assert choose_model(Settings(runpod_pod_id="pod"), CPU) == RELEASED_MODEL
    assert choose_model(Settings(), CPU) == str(EMBEDDED_MODEL)


def test_a_cuda_device_that_is_not_there_is_told() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(LoadFailure, match="DEVICE is cuda"):
        choose_device(Settings(device="cuda"))
    assert choose_device(Settings(device="auto")).type == "cpu"


def test_a_cached_snapshot_is_found_by_reference_commit_or_age(tmp_path: Path) -> None:
    assert find_cached("mistralai/Voxtral", None, tmp_path) is None
    older, newer = make_snapshot(tmp_path, "aaa"), make_snapshot(tmp_path, "bbb")
    os.utime(older, (1, 1))
    assert find_cached("mistralai/Voxtral", None, tmp_path) == newer
    assert find_cached("mistralai/Voxtral", "aaa", tmp_path) == older
    assert find_cached("mistralai/Voxtral", "ccc", tmp_path) is None
    references = tmp_path / "models--mistralai--Voxtral" / "refs"
    references.mkdir()
    (references / "main").write_text("aaa\n")
    assert find_cached("mistralai/Voxtral", None, tmp_path) == older
    assert find_cached("mistralai/Voxtral", "main", tmp_path) == older


@pytest.mark.parametrize("left_over", [[], ["config.json"], [*SHARDS[:1], "config.json"]])
def test_a_download_that_was_interrupted_is_no_model(tmp_path: Path, left_over: list[str]) -> None:
    snapshot = make_snapshot(tmp_path, "aaa")
    for file in snapshot.iterdir():
        if file.name not in left_over:
            file.unlink()
    assert find_cached("mistralai/Voxtral", None, tmp_path) is None
    assert find_cached("mistralai/Voxtral", "aaa", tmp_path) is None


Weights = dict[str, torch.Tensor]


def spoilt(folder: Path, change: Callable[[Weights], None]) -> Settings:
    """A copy of the embedded model whose weights were changed."""
    shutil.copytree(EMBEDDED_MODEL, folder, ignore=shutil.ignore_patterns("clips"))
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return Settings(model_id=str(folder), device="cpu")


NORM = "model.audio_tower.layer_norm.weight"


def test_a_checkpoint_without_one_of_its_weights_is_not_loaded(tmp_path: Path) -> None:
    def take_out(weights: Weights) -> None:
        del weights[_stored_name(weights)]

    with pytest.raises(LoadFailure, match=f"has no weight {NORM}"):
        load_model(spoilt(tmp_path / "model", take_out))


def test_a_weight_of_another_shape_is_a_load_failure_that_names_it(tmp_path: Path) -> None:
    def reshape(weights: Weights) -> None:
        weights[_stored_name(weights)] = torch.zeros(3)

    with pytest.raises(LoadFailure, match=f"another shape for the weight {NORM}"):
        load_model(spoilt(tmp_path / "model", reshape))


def test_a_weight_that_the_model_has_no_place_for_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def add(weights: Weights) -> None:
        weights["adapter.weight"] = torch.zeros(3)

    with caplog.at_level(logging.WARNING):
        load_model(spoilt(tmp_path / "model", add))
    assert "adapter.weight" in caplog.text


def _stored_name(weights: Weights) -> str:
    """The name that the file has for NORM."""
    return next(name for name in weights if name.endswith("audio_tower.layer_norm.weight"))


def test_a_folder_without_a_model_fails_with_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LoadFailure, match="cannot be loaded") as caught:
        load_model(Settings(model_id=str(tmp_path), device="cpu"))
    assert "\n" not in caught.value.message


def test_the_embedded_model_has_the_shape_of_the_real_one(loaded: LoadedModel) -> None:
    assert loaded.model_id == "voxtral-tiny"
    assert loaded.dtype == torch.float32
    assert loaded.context_tokens == 32_768
    assert 2 in loaded.stop_ids
    config = loaded.model.config.audio_config
    assert (config.max_source_positions, config.num_mel_bins) == (1500, 80)


def test_weights_are_loaded_in_the_dtype_by_setting() -> None:
    loaded = load_model(Settings(model_id=str(EMBEDDED_MODEL), device="cpu", dtype="bfloat16"))
    assert loaded.model.lm_head.weight.dtype == torch.bfloat16
