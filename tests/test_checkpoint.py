"""A folder that cannot be served ends the start in its first second: what is missing is named."""

import json
from pathlib import Path

import pytest

from voxtral_worker.checkpoint import is_local, is_whole, missing_files, problem_with
from voxtral_worker.settings import EMBEDDED_MODEL

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def make_checkpoint(folder: Path, model_type: str = "voxtral") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    for name in ("preprocessor_config.json", "tekken.json"):
        (folder / name).write_text("{}")
    for shard in SHARDS:
        (folder / shard).write_bytes(b"weights")
    weight_map = {"a": SHARDS[0], "b": SHARDS[1], "c": SHARDS[1]}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_the_embedded_model_is_whole() -> None:
    assert problem_with(EMBEDDED_MODEL) is None
    assert is_whole(EMBEDDED_MODEL)


@pytest.mark.parametrize(
    "name", ["config.json", "tekken.json", "preprocessor_config.json", *SHARDS]
)
def test_every_file_of_the_index_must_be_there(tmp_path: Path, name: str) -> None:
    folder = make_checkpoint(tmp_path)
    assert is_whole(folder)
    (folder / name).unlink()
    assert missing_files(folder) == [name]
    assert name in str(problem_with(folder))


def test_a_link_to_a_file_that_is_not_there_is_no_file(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    (folder / SHARDS[1]).unlink()
    (folder / SHARDS[1]).symlink_to(tmp_path / "blobs" / "gone")
    assert missing_files(folder) == [SHARDS[1]]


@pytest.mark.parametrize("index", ["not json", "[]", "{}", '{"weight_map": {}}'])
def test_an_index_that_cannot_be_read_leaves_the_single_file(tmp_path: Path, index: str) -> None:
    folder = make_checkpoint(tmp_path)
    (folder / "model.safetensors.index.json").write_text(index)
    assert missing_files(folder) == ["model.safetensors"]


def test_another_architecture_is_named(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "bert")
    assert problem_with(folder) == "this is a bert model, but a voxtral model is needed"


def test_what_is_no_folder_is_told(tmp_path: Path) -> None:
    assert problem_with(tmp_path / "gone") == "there is no such folder"
    (tmp_path / "file").write_text("")
    assert problem_with(tmp_path / "file") == "it is a file, but must be a folder"
    assert "config.json" in str(problem_with(tmp_path))


def test_a_path_is_told_from_a_hub_id(tmp_path: Path) -> None:
    assert is_local(str(tmp_path))
    assert is_local("/no/such/folder")
    assert is_local("./model")
    assert not is_local("mistralai/Voxtral-Mini-3B-2507")
