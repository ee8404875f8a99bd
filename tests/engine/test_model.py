"""Where the model comes from, and how a load that fails is told."""

import os
from pathlib import Path

import pytest
import torch

from voxtral_worker.engine.model import (
    LoadedModel,
    choose_device,
    choose_model,
    find_cached,
    load_model,
)
from voxtral_worker.errors import LoadFailure
from voxtral_worker.settings import EMBEDDED_MODEL, RELEASED_MODEL, Settings

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


def make_snapshot(cache: Path, commit: str) -> Path:
    folder = cache / "models--mistralai--Voxtral" / "snapshots" / commit
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


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
    assert (config.max_source_positions, config.num_mel_bins) == (1500, 128)


def test_weights_are_loaded_in_the_dtype_by_setting() -> None:
    loaded = load_model(Settings(model_id=str(EMBEDDED_MODEL), device="cpu", dtype="bfloat16"))
    assert loaded.model.lm_head.weight.dtype == torch.bfloat16
