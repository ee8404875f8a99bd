"""What a value may be, said once: by the types of a model's fields.

A model (`Values`) checks what a caller sent, is the JSON Schema that callers read, and is the
frozen value that the worker uses. `reading.read` makes one of a caller's JSON, or raises one error
that names each bad field, its value, and what it may be. No caller gets a sentence of the library.

The sentence of a field comes from the `May` in its annotation (`may.py`):

    silence_ms: Annotated[int, whole(100, 3000)] = 500

A model is strict: "5" and true are not numbers. The settings, which are read from texts, are not.
"""
