"""Engines that compute the embedded model, and what plain transformers make of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.embedded_model import EMBEDDED
from tests.support.light_model import load_light_model
from tests.support.settings import changed
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.model import LoadedModel, load_model


@pytest.fixture
def exact_engine(loaded: LoadedModel) -> Iterator[Engine]:
    """Computes whole windows, as the library does."""
    running = Engine(EngineCore(loaded, changed(EMBEDDED, window_tail="exact")))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def reference() -> Any:
    """A second copy of the model, which no engine has touched."""
    return load_model(EMBEDDED).model


@pytest.fixture(scope="session")
def light_reference(light_folder: Path) -> Any:
    """A second copy of the light model, which no engine has touched."""
    return load_light_model(light_folder).model


@pytest.fixture(scope="session")
def generate(loaded: LoadedModel, reference: Any) -> Any:
    """Plain `generate()` on what VoxtralProcessor makes; returns the new tokens."""

    def run(inputs: Any, tokens: int) -> list[int]:
        with torch.inference_mode():
            whole = reference.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        new = whole[0, inputs["input_ids"].shape[1] :].tolist()
        return [token for token in new if token not in loaded.stop_ids]

    return run
