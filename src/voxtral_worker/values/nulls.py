"""Null in a JSON Schema, where it is the same as leaving a field out."""

from voxtral_worker.values.may import JsonSchema

NULL: JsonSchema = {"type": "null"}


def without_null(schema: JsonSchema) -> JsonSchema:
    """The schema of what may be left out, where null does not mean that."""
    told = dict(schema)
    if isinstance(told.get("type"), list):
        (told["type"],) = [kind for kind in told["type"] if kind != "null"]
    if "enum" in told:
        told["enum"] = [value for value in told["enum"] if value is not None]
    if "anyOf" in told:
        told["anyOf"] = [each for each in told["anyOf"] if each != NULL]
    return told


def with_null(schema: JsonSchema) -> JsonSchema:
    """The schema of what may be left out: null says the same."""
    if "const" in schema:
        others = {key: value for key, value in schema.items() if key != "const"}
        schema = {**others, "enum": [schema["const"]]}
    if "enum" in schema:
        kinds = {key: value for key, value in schema.items() if key != "type"}
        return {**kinds, "enum": [*schema["enum"], *([] if None in schema["enum"] else [None])]}
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    if "anyOf" not in schema:
        kept = {key: schema[key] for key in schema if key in ("default", "description")}
        return {"anyOf": [{k: v for k, v in schema.items() if k not in kept}, NULL], **kept}
    forms = [each for each in schema["anyOf"] if each != NULL]
    if len(forms) == 1 and (forms[0].keys() & {"type", "enum"}):
        rest_of = {key: value for key, value in schema.items() if key != "anyOf"}
        return with_null({**rest_of, **forms[0]})
    return {**schema, "anyOf": [*forms, NULL]}
