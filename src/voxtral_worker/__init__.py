"""A RunPod worker for live conversation with a speech model: audio in, text or speech out."""

__version__ = "0.1.0"
