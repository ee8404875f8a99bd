"""The served model, and the names under which clients may ask for it."""

from dataclasses import dataclass
from typing import Any

from voxtral_worker.errors import shown
from voxtral_worker.server.openai.errors import BadOption, ModelNotFound
from voxtral_worker.server.service import Service

ANY = "*"


@dataclass(frozen=True)
class ModelNames:
    """`served` is the id in answers; `aliases` are more names, of which `*` is any name."""

    served: str
    aliases: tuple[str, ...] = ()

    def include(self, asked: object) -> bool:
        """Whether this is a name of the model: its id, the last part of its id, or an alias."""
        own = (self.served, self.served.rpartition("/")[2], *self.aliases)
        return asked in own or (ANY in self.aliases and isinstance(asked, str))

    @property
    def listed(self) -> tuple[str, ...]:
        """The names in the list of models."""
        return (self.served, *(a for a in self.aliases if a not in (ANY, self.served)))


def model_names(service: Service) -> ModelNames:
    """The names of the served model. Raises NotReady."""
    return ModelNames(
        service.require_ready().loaded.model_id,
        tuple(dict.fromkeys(service.settings.model_aliases)),
    )


def check_model(service: Service, asked: object) -> str:
    """The served id, when it was asked for by one of its names.

    Raises NotReady, BadOption where none was asked for, or ModelNotFound that names what is
    served.
    """
    names = model_names(service)
    if asked is None:
        raise BadOption("model", "model is missing", "missing_required_parameter")
    if not names.include(asked):
        raise ModelNotFound(
            f"the model {shown(asked)} does not exist here; served is {names.served!r}"
            " (MODEL_ALIASES gives it further names)"
        )
    return names.served


def model_objects(service: Service) -> list[dict[str, Any]]:
    """The served model under each of its names."""
    return [model_object(service, name) for name in model_names(service).listed]


def model_object(service: Service, name: str) -> dict[str, Any]:
    """The served model under a name; `root` is its id."""
    served = model_names(service).served
    owner = served.rpartition("/")[0] or "voxtral-worker"
    return {
        "id": name,
        "object": "model",
        "created": service.started_at,
        "owned_by": owner,
        "root": served,
    }
