"""What a field of a model may be, in the words that its errors have."""

from typing import get_args

from pydantic.fields import FieldInfo

from voxtral_worker.values.may import May, one_of


def words_of(field: FieldInfo) -> str:
    """What a field may be, in words."""
    kinds = get_args(field.annotation)
    within = [each for kind in kinds for each in get_args(kind)]
    words = [each.words for each in (*field.metadata, *within) if isinstance(each, May)]
    return words[0] or one_of(*kinds)
