"""The ground: bytes of audio become 16 kHz frames."""
