"""Finds where a whole recording holds speech, and cuts it in the pauses.

The network hears several places of the recording at once, which takes less than half of the time
of frame by frame. What it computes depends on what it heard before, so at each place it starts to
listen a little earlier.
"""

import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxtral_worker.audio.aside import run_aside
from voxtral_worker.audio.frames import FRAME_SAMPLES, SAMPLE_RATE
from voxtral_worker.audio.stretches import Stretch
from voxtral_worker.turns.detector import TurnDetector
from voxtral_worker.turns.events import TurnEnded

Samples: TypeAlias = NDArray[np.float32]
# From sound [n, 64 + 512 * k] and states [2, n, 128] to probabilities [n, k] and new states.
Network: TypeAlias = Callable[[Samples, Samples], tuple[Samples, Samples]]
# From a recording, float32 [n], to the speech probabilities of its frames, float32 [k]. It blocks.
Survey: TypeAlias = Callable[[Samples, threading.Event], Samples]
FindSpeech: TypeAlias = Callable[[Samples], Awaitable[tuple[Stretch, ...]]]

# What the network remembers of a stream: the samples before a frame, and its own state.
CONTEXT_SAMPLES = 64
STATE_SHAPE = (2, 128)
# More places at once would hardly take less time for each frame.
MOST_PLACES = 16
# What the network heard more than two seconds ago hardly matters.
LEAD_FRAMES = 2 * SAMPLE_RATE // FRAME_SAMPLES
# Fewer frames are not worth a place of their own, because of the two seconds before it.
LEAST_FRAMES = 4 * LEAD_FRAMES
# A recording whose loudest sample is below this is amplified for the network.
LOUD = 0.1
MOST_GAIN = 32.0
# What the model hears at once: at most 30 s.
WINDOW_FRAMES = 30 * SAMPLE_RATE // FRAME_SAMPLES
PAUSE_MS = 500
# In a longer pause a model may invent words, and every second of it takes time to encode.
MOST_PAUSE_SAMPLES = 2 * SAMPLE_RATE


async def find_speech(survey: Survey, samples: Samples) -> tuple[Stretch, ...]:
    """Where a recording, float32 [n], 16 kHz, holds speech. Works on a thread of its own.

    Each stretch lasts at most 30 s and lies between two pauses of half a second. Longer speech is
    cut at a quiet place. Raises EngineFailure.
    """
    return await run_aside(lambda is_over: stretches_of(samples, survey(samples, is_over)))


async def take_all_as_speech(samples: Samples) -> tuple[Stretch, ...]:
    """The stretches of a recording without a VAD: all of it counts as speech."""
    return stretches_of(samples, np.ones(_frames_in(samples), np.float32))


def joined(stretches: Iterable[Stretch]) -> tuple[Stretch, ...]:
    """Join stretches that are close together, up to 30 s."""
    windows: list[Stretch] = []
    for stretch in stretches:
        last = windows[-1] if windows else None
        if (
            last is not None
            and stretch.start - last.end <= MOST_PAUSE_SAMPLES
            and stretch.end - last.start <= WINDOW_FRAMES * FRAME_SAMPLES
        ):
            windows[-1] = Stretch(last.start, stretch.end)
        else:
            windows.append(stretch)
    return tuple(windows)


def stretches_of(samples: Samples, probabilities: Samples) -> tuple[Stretch, ...]:
    """Speech as a live session would find it, from one probability for each frame, float32 [k]."""
    detector = TurnDetector(silence_ms=PAUSE_MS, max_turn_frames=WINDOW_FRAMES)
    events = [
        event
        for probability, energy in zip(probabilities.tolist(), _energies(samples), strict=True)
        for event in detector.hear(probability, energy)
    ]
    return tuple(
        Stretch(
            event.first_frame * FRAME_SAMPLES, min(event.end_frame * FRAME_SAMPLES, len(samples))
        )
        for event in (*events, *detector.end_turn())
        if isinstance(event, TurnEnded)
    )


def probabilities_of(network: Network, samples: Samples, is_over: threading.Event) -> Samples:
    """Speech probabilities, float32 [k], of each frame of a recording, float32 [n].

    The last frame is filled up with silence. It blocks, and gives up when `is_over` is set: what
    it returns then has no meaning.
    """
    frames = _frames_in(samples)
    places = max(1, min(MOST_PLACES, frames // LEAST_FRAMES))
    each = -(-frames // places)
    firsts = [place * each for place in range(places)]
    gain = _gain(samples)
    state = np.zeros((STATE_SHAPE[0], places, STATE_SHAPE[1]), np.float32)
    found = np.zeros((places, each), np.float32)
    for step in range(-LEAD_FRAMES if places > 1 else 0, each):
        if is_over.is_set():
            break
        if step == 0:
            # The recording begins here: nothing was heard before it.
            state[:, 0] = 0.0
        rows = np.stack([_heard_with(samples, first + step) for first in firsts])
        probabilities, state = network(rows * gain, state)
        if step >= 0:
            found[:, step] = probabilities[:, 0]
    return found.reshape(-1)[:frames]


def _frames_in(samples: Samples) -> int:
    return -(-len(samples) // FRAME_SAMPLES)


def _heard_with(samples: Samples, frame: int) -> Samples:
    """A frame, after the end of the frame before it. Outside of the recording there is silence."""
    row = np.zeros(CONTEXT_SAMPLES + FRAME_SAMPLES, np.float32)
    start = frame * FRAME_SAMPLES - CONTEXT_SAMPLES
    piece = samples[max(0, start) : max(0, start + len(row))]
    at = max(0, -start)
    row[at : at + len(piece)] = piece
    return row


def _gain(samples: Samples) -> np.float32:
    loudest = max(float(samples.max(initial=0.0)), -float(samples.min(initial=0.0)))
    return np.float32(min(MOST_GAIN, max(1.0, LOUD / max(loudest, 1e-9))))


def _energies(samples: Samples) -> list[float]:
    """The energy of each frame. The last frame may be incomplete."""
    whole = len(samples) - len(samples) % FRAME_SAMPLES
    frames = samples[:whole].reshape(-1, FRAME_SAMPLES)
    energies: list[float] = np.einsum("ij,ij->i", frames, frames).tolist()
    rest = samples[whole:]
    return [*energies, float(rest @ rest)] if len(rest) else energies
