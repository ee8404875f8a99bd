"""A worker that talks: live audio in, the words of a speech model out."""

__version__ = "0.1.0"
