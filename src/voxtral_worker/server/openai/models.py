"""The one model that is served, as OpenAI lists models."""

from typing import Any

from voxtral_worker.server.openai.errors import BadOption, ModelNotFound
from voxtral_worker.server.openai.options import shown
from voxtral_worker.server.service import Service


def model_id(service: Service) -> str:
    """The id that answers carry. Raises NotReady."""
    return service.require_ready().loaded.model_id


def check_model(service: Service, asked: object) -> str:
    """The served id, when it was asked for by that or by its last part.

    Raises NotReady, BadOption where none was asked for, or ModelNotFound that names what is
    served.
    """
    served = model_id(service)
    if asked is None:
        raise BadOption("model", "model is missing", "missing_required_parameter")
    if asked not in (served, served.rpartition("/")[2]):
        raise ModelNotFound(f"the model {shown(asked)} does not exist here; served is {served!r}")
    return served


def model_object(service: Service) -> dict[str, Any]:
    """The served model."""
    served = model_id(service)
    owner = served.rpartition("/")[0] or "voxtral-worker"
    return {"id": served, "object": "model", "created": service.started_at, "owned_by": owner}
