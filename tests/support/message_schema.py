"""Says what a message of the worker has that its description has not."""

from jsonschema import Draft202012Validator

from voxtral_worker.server.native.sent import SCHEMAS

_VALIDATORS = {name: Draft202012Validator(schema) for name, schema in SCHEMAS.items()}


def problem_with(message: object) -> str | None:
    """What a message of the worker has that the contract has not; None when it is good."""
    if not isinstance(message, dict):
        return f"not an object: {message!r:.200}"
    validator = _VALIDATORS.get((str(message.get("type")), message.get("status")))
    if validator is None:
        return f"unknown: {message!r:.200}"
    error = next(validator.iter_errors(message), None)
    return None if error is None else f"{error.message:.200}: {message!r:.300}"
