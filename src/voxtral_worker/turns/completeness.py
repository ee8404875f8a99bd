"""Scores how complete the words before a pause sound.

The network is Smart Turn v3.2, or another of the same shape. It hears the last 8 s of a turn and
returns the probability that the speaker has finished. One thread owns it. A score takes nearly
a tenth of a second of one core. A batch of pauses would take as long as one call for each, so
pauses are scored one by one.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnxruntime
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from transformers.audio_utils import mel_filter_bank

from voxtral_worker import metrics
from voxtral_worker.audio.frames import SAMPLE_RATE
from voxtral_worker.errors import LoadFailure

log = logging.getLogger(__name__)

Samples: TypeAlias = NDArray[np.float32]
# The probability that the speaker has finished, for features, float32 [1, 80, 800].
Network: TypeAlias = Callable[[Samples], float]
# A score, from 0 to 1; None: there is no score of this pause.
Score: TypeAlias = "asyncio.Future[float | None]"

# What the network hears. Longer sound is cut at its beginning, and shorter sound is filled up
# there.
HEARD_SAMPLES = 8 * SAMPLE_RATE
MEL_BINS = 80
MEL_FRAMES = 800
FFT_SAMPLES = 400
HOP_SAMPLES = 160
# As Whisper has them: the quietest sound that is distinguished from silence, and how far below the
# loudest it may be, in powers of ten.
FLOOR = 1e-10
RANGE = 8.0
# Added to the variance, so that silence is not divided by zero.
LEAST_VARIANCE = 1e-7

MAX_WAITING = 64
# A score that comes later than this is of no use: the silence alone has decided by then.
PATIENCE_S = 0.4

_WINDOW = np.hanning(FFT_SAMPLES + 1)[:-1].astype(np.float32)
# Float32 [frequencies, mel bins].
_FILTERS = mel_filter_bank(
    1 + FFT_SAMPLES // 2, MEL_BINS, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, "slaney", "slaney"
).astype(np.float32)


def features(samples: Samples) -> Samples:
    """Features, float32 [80, 800], of sound, float32 [n], 16 kHz.

    They are those of transformers' WhisperFeatureExtractor for the last 8 s. Shorter sound has
    silence before it; the frames of that silence are all the same, and are computed once.
    """
    heard = samples[-HEARD_SAMPLES:]
    missing = HEARD_SAMPLES - len(heard)
    signal = np.zeros(HEARD_SAMPLES, np.float32)
    signal[missing:] = heard
    signal = (signal - signal.mean()) / np.sqrt(signal.var() + np.float32(LEAST_VARIANCE))
    reach = FFT_SAMPLES // 2
    padded = np.pad(signal, reach, mode="reflect")
    # Frame k hears the signal up to sample 160 * k + 200.
    silent = max(0, (missing - reach) // HOP_SAMPLES)
    windows = sliding_window_view(padded, FFT_SAMPLES)[::HOP_SAMPLES][silent:MEL_FRAMES]
    spectrum = np.fft.rfft(windows * _WINDOW)
    power = spectrum.real**2 + spectrum.imag**2
    loudness = np.log10(np.maximum(power @ _FILTERS, np.float32(FLOOR)))
    loudness = (np.maximum(loudness, loudness.max() - np.float32(RANGE)) + 4.0) / 4.0
    whole = np.concatenate([np.repeat(loudness[:1], silent, axis=0), loudness])
    return np.ascontiguousarray(whole.T, np.float32)


@dataclass(frozen=True)
class _Asked:
    """A pause that waits for its score."""

    # The sound before it, float32 [n], at most 8 s.
    samples: Samples
    answer: Score
    # When the score was asked for, on the monotonic clock.
    asked_s: float


class Completeness:
    """Every call of `ask` gets a result, in order of arrival: a score, or None."""

    def __init__(self, network: Network) -> None:
        """`network`: see `load_network`. It is called on this class's own thread only."""
        self._network = network
        self._asked: queue.Queue[_Asked | None] = queue.Queue(MAX_WAITING)
        self._has_failed = False
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="completeness", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Pauses that still wait get None."""
        self._is_stopping.set()
        # If the queue is full, the thread does not wait for an entry, and sees by itself that it
        # is to stop.
        with suppress(queue.Full):
            self._asked.put_nowait(None)
        if self._thread.is_alive():
            self._thread.join(5.0)

    @property
    def is_running(self) -> bool:
        """Whether pauses are scored: between `start` and `stop`."""
        return self._thread.is_alive() and not self._is_stopping.is_set()

    def ask(self, samples: Samples) -> Score:
        """Score the sound before a pause, float32 [n], 16 kHz. Call it on an event loop.

        The result is None if the network fails, if too many pauses wait, if the score takes too
        long, or if the thread does not run.
        """
        answer: Score = asyncio.get_running_loop().create_future()
        asked = _Asked(samples[-HEARD_SAMPLES:].copy(), answer, time.monotonic())
        try:
            if not self.is_running:
                raise queue.Full
            self._asked.put_nowait(asked)
        except queue.Full:
            metrics.turn_scores.labels("refused").inc()
            answer.set_result(None)
        return answer

    # What follows runs on the thread.

    def _serve(self) -> None:
        while not self._is_stopping.is_set():
            asked = self._asked.get()
            if asked is not None:
                self._answer(asked, self._score_in_time(asked))
        while not self._asked.empty():
            left = self._asked.get()
            if left is not None:
                self._answer(left, None)

    def _score_in_time(self, asked: _Asked) -> float | None:
        # Its session no longer waits for this score. To compute it would make the others late too.
        if time.monotonic() - asked.asked_s > PATIENCE_S:
            metrics.turn_scores.labels("late").inc()
            return None
        try:
            score = self._network(features(asked.samples)[None])
        except Exception:  # a network that fails must not end the thread, nor any turn
            metrics.turn_scores.labels("failed").inc()
            if not self._has_failed:
                log.exception("completeness: a pause could not be scored; told once")
            self._has_failed = True
            return None
        took_s = time.monotonic() - asked.asked_s
        metrics.turn_score_seconds.observe(took_s)
        metrics.turn_scores.labels("scored" if took_s <= PATIENCE_S else "late").inc()
        return score

    def _answer(self, asked: _Asked, score: float | None) -> None:
        def settle() -> None:
            if not asked.answer.done():
                asked.answer.set_result(score)

        # The loop is closed when the worker stops while pauses are still scored.
        with suppress(RuntimeError):
            asked.answer.get_loop().call_soon_threadsafe(settle)


def _sums_exactly() -> bool:
    """Whether the CPU adds products of 8-bit numbers in 32 bits, which is exact and faster."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_vnni") or found.get("avx_vnni"))


def load_network(path: Path) -> Network:
    """Load a turn model. Raises LoadFailure for a file of another shape."""
    try:
        network = _load(path)
        network(features(np.zeros(SAMPLE_RATE, np.float32))[None])
    except Exception as error:  # whatever the library makes of a file
        raise LoadFailure(f"TURN_MODEL is {str(path)!r}, but that is no turn model") from error
    return network


def _load(path: Path) -> Network:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if not _sums_exactly():
        # Products of 8-bit numbers overflow otherwise, which moves scores by up to a half.
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(rows: Samples) -> float:
        probabilities = np.asarray(session.run(None, {"input_features": rows})[0])
        return float(probabilities.reshape(-1)[0])

    return run
