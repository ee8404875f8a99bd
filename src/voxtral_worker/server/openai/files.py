"""Reads the audio files that callers send."""

import threading

from voxtral_worker.audio.recordings import MAX_AUDIO_S, Samples


def read_file(data: bytes, _: threading.Event) -> Samples:
    """Samples, float32 [n], 16 kHz, of a wav, flac, mp3 or ogg file. Blocks. Raises BadInput."""
    # It brings PyTorch in, and the server listens before that.
    from voxtral_worker.audio.clips import read_clip

    return read_clip(data, max_seconds=MAX_AUDIO_S)
