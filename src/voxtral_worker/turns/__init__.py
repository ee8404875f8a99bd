"""The listening floor: where speech is, when a turn ends."""
