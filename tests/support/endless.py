"""An engine whose answers are all as long as allowed, whatever the model would say."""

from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.settings import Settings


def endless_core(loaded: LoadedModel, settings: Settings) -> EngineCore:
    """Nothing ends an answer but its limit of tokens."""
    core = EngineCore(loaded, settings)
    core.outputs.stop_ids = frozenset()
    core.outputs.is_runaway = lambda token_ids: False
    return core


def endless_engine(loaded: LoadedModel, settings: Settings) -> Engine:
    """Such an engine, started and warm."""
    engine = Engine(endless_core(loaded, settings))
    engine.start()
    engine.warm_up()
    return engine
