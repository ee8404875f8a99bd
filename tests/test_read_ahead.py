"""Weights are read before they are needed, and whatever goes wrong there stays there."""

import threading
from pathlib import Path

import pytest

from voxtral_worker import checkpoint, read_ahead
from voxtral_worker.read_ahead import PART_BYTES, files_to_read, read, reading_ahead
from voxtral_worker.settings import EMBEDDED_MODEL, RELEASED_MODEL, Settings


def shards(folder: Path) -> list[Path]:
    files = [folder / "a.safetensors", folder / "b.safetensors"]
    files[0].write_bytes(bytes(PART_BYTES + 5))
    files[1].write_bytes(bytes(7))
    return files


def test_every_byte_is_read(tmp_path: Path) -> None:
    assert read(shards(tmp_path), threading.Event()) == PART_BYTES + 12


def test_it_ends_when_it_is_told_to(tmp_path: Path) -> None:
    stopping = threading.Event()
    stopping.set()
    assert read(shards(tmp_path), stopping) == 0


def test_a_file_that_cannot_be_read_is_left_to_whoever_loads_it(tmp_path: Path) -> None:
    first, second = shards(tmp_path)
    assert read([second, tmp_path / "none", first], threading.Event()) == 7


def test_what_does_not_fit_into_memory_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "_free_bytes", lambda: PART_BYTES)
    assert read(shards(tmp_path), threading.Event()) == 0


def test_no_thread_is_left_behind(tmp_path: Path) -> None:
    with reading_ahead(shards(tmp_path)):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_the_files_are_those_of_the_model_that_will_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert files_to_read(Settings(model_id=str(EMBEDDED_MODEL))) == [
        EMBEDDED_MODEL / "model.safetensors"
    ]
    # Without a word about the model, it depends on the device, which is not known yet.
    assert files_to_read(Settings()) == []
    assert files_to_read(Settings(model_id="owner/name")) == []
    monkeypatch.setattr(
        read_ahead, "find_cached", lambda name, _: tmp_path if name == RELEASED_MODEL else None
    )
    assert files_to_read(Settings(model_id=RELEASED_MODEL)) == [tmp_path / checkpoint.SINGLE]
