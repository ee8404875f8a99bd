"""Detects the language of a text."""

from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

# The languages that the model can write down; no other result is used.
SPOKEN = frozenset(("en", "es", "fr", "pt", "hi", "de", "nl", "it"))
LEAST_CHARACTERS = 20
# A wrong language in the prompt does more harm than none.
LEAST_PROBABILITY = 0.95


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of the language, or None where that is not sure.

    Blocks: the first call reads a file of a few megabytes.
    """
    if len(text.strip()) < LEAST_CHARACTERS:
        return None
    language, probability = _identifier().classify(text)
    is_sure = probability >= LEAST_PROBABILITY and language in SPOKEN
    return str(language) if is_sure else None


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
