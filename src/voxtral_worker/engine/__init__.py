"""The model floor: conversations become tokens."""
