"""Settings of a test's own."""

from typing import Any

from voxtral_worker.settings import Settings


def changed(settings: Settings, **changes: Any) -> Settings:
    """A copy with other values, also those that no variable may have: short keys, short turns."""
    assert changes.keys() <= Settings.model_fields.keys(), changes
    return settings.model_copy(update=changes)
