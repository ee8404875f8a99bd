"""The conversation floor: pure, told the time, asks for effects."""
