"""JSON schemas of any shape, and a model of random weights that has to follow them."""

import dataclasses
import json
from typing import Any

import jsonschema
import torch
from hypothesis import strategies as st
from transformers import VoxtralForConditionalGeneration

from voxtral_worker.engine.model import LoadedModel

WORDS = st.sampled_from(
    ["a", "on", "größe", "温度", 'quote"', "back\\slash", "a b", "🙂", "id", "x"]
)
VALUES = st.none() | st.booleans() | st.integers(-1000, 1000) | WORDS


def leaf() -> st.SearchStrategy[dict[str, Any]]:
    """A schema of one value, whose texts end soon even by chance."""
    return st.one_of(
        st.just({"type": "boolean"}),
        st.just({"type": "null"}),
        st.builds(
            lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
            st.integers(-1000, 1000),
            st.integers(0, 1000),
        ),
        st.builds(lambda most: {"type": "string", "maxLength": most}, st.integers(0, 8)),
        st.builds(
            lambda values: {"enum": values}, st.lists(VALUES, min_size=1, max_size=6, unique=True)
        ),
        st.builds(lambda value: {"const": value}, VALUES),
        st.sampled_from(
            [
                {"type": "string", "format": "date"},
                {"type": "string", "pattern": "^[a-z]{1,4}-[0-9]{2}$"},
                {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
            ]
        ),
    )


def grown(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Schemas that hold others."""
    return st.one_of(
        objects(inner),
        st.builds(
            lambda items, low, more: {
                "type": "array",
                "items": items,
                "minItems": low,
                "maxItems": low + more,
            },
            inner,
            st.integers(0, 2),
            st.integers(0, 2),
        ),
        st.builds(lambda ways: {"anyOf": ways}, st.lists(inner, min_size=1, max_size=3)),
    )


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """The schema of an object, some of whose fields may be left out."""
    properties = draw(st.dictionaries(WORDS, inner, max_size=4))
    required = [name for name in properties if draw(st.booleans())]
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    return schema | {"additionalProperties": False}


SCHEMAS = objects(st.recursive(leaf(), grown, max_leaves=6))


def random_model(loaded: LoadedModel, seed: int = 0) -> LoadedModel:
    """The embedded model's shape and tokenizer, and weights of chance: any token is likely."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VoxtralForConditionalGeneration(loaded.model.config)
    model.generation_config = loaded.model.generation_config
    return dataclasses.replace(loaded, model=model.to(loaded.dtype).eval())


def satisfies(text: str, schema: dict[str, Any]) -> bool:
    """Whether a JSON text satisfies a schema."""
    return bool(jsonschema.Draft202012Validator(schema).is_valid(json.loads(text)))
