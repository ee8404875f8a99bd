"""Models as callers read them: JSON Schema."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from voxtral_worker.values.may import JsonSchema
from voxtral_worker.values.model import Values, may_be_null, options_of
from voxtral_worker.values.nulls import without_null


class _Described(GenerateJsonSchema):
    def field_title_should_be_set(self, _: Any) -> bool:
        return False


def described(model: type[Values]) -> JsonSchema:
    """The JSON Schema of a model, in which null is what it is to `read`."""
    return model.model_json_schema(schema_generator=_Described)


def whole_of(model: type[Values]) -> JsonSchema:
    """The JSON Schema of a model as a worker sends it: every option, and null only as a value."""
    found = described(model)
    for name, field in options_of(model).items():
        if not may_be_null(field):
            found["properties"][name] = without_null(found["properties"][name])
    return {**found, "required": list(options_of(model)), "additionalProperties": False}


def components(*models: type[Values]) -> dict[str, JsonSchema]:
    """The JSON Schemas of models, and of those within them, by name, as parts of OpenAPI."""
    where = "#/components/schemas/{model}"
    _, found = models_json_schema(
        [(model, "validation") for model in models],
        ref_template=where,
        schema_generator=_Described,
    )
    return dict(found["$defs"])
