"""Finds where a whole recording holds speech, and cuts it where it does not.

The network is asked about several places of the recording at once, which costs less than half
of asking frame by frame. At each place it listens a little ahead, since it remembers what
it has heard.
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
# Probabilities [n, k] and new states [2, n, 128], of sound [n, 64 + 512 * k] and states.
Network: TypeAlias = Callable[[Samples, Samples], tuple[Samples, Samples]]
# Speech probabilities, float32 [k], of a recording, float32 [n]; blocks.
Survey: TypeAlias = Callable[[Samples, threading.Event], Samples]
FindSpeech: TypeAlias = Callable[[Samples], Awaitable[tuple[Stretch, ...]]]

# What the network remembers of a stream: the samples before a frame, and its own state.
CONTEXT_SAMPLES = 64
STATE_SHAPE = (2, 128)
# More places at once cost nearly as much a frame, and a short recording has no room for them.
MOST_PLACES = 16
# After two seconds what was heard before them hardly matters.
LEAD_FRAMES = 2 * SAMPLE_RATE // FRAME_SAMPLES
LEAST_FRAMES = 4 * LEAD_FRAMES
# Speech that is quieter than this at its loudest is made louder for the network's ears.
LOUD = 0.1
MOST_GAIN = 32.0
# What the model hears at once: at most 30 s.
WINDOW_FRAMES = 30 * SAMPLE_RATE // FRAME_SAMPLES
PAUSE_MS = 500
# In a longer pause a model may make up words, and every second of it costs.
MOST_PAUSE_SAMPLES = 2 * SAMPLE_RATE


async def find_speech(survey: Survey, samples: Samples) -> tuple[Stretch, ...]:
    """Where a recording, float32 [n], 16 kHz, holds speech; found beside the event loop.

    Each stretch lasts at most 30 s and lies between two pauses of half a second; where speech
    goes on for longer, it is cut at a quiet place. Raises EngineFailure.
    """
    return await run_aside(lambda is_over: stretches_of(samples, survey(samples, is_over)))


async def take_all_as_speech(samples: Samples) -> tuple[Stretch, ...]:
    """What `find_speech` finds where nobody listens."""
    return stretches_of(samples, np.ones(_frames_in(samples), np.float32))


def joined(stretches: Iterable[Stretch]) -> tuple[Stretch, ...]:
    """Stretches that are close together as one, of at most 30 s."""
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
    """Speech as a live session would find it, by one probability, float32 [k], a frame."""
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

    The last frame is filled up with silence. Blocks; an answer after `is_over` means nothing.
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
            # Before the first frame there is nothing.
            state[:, 0] = 0.0
        rows = np.stack([_heard_with(samples, first + step) for first in firsts])
        probabilities, state = network(rows * gain, state)
        if step >= 0:
            found[:, step] = probabilities[:, 0]
    return found.reshape(-1)[:frames]


def _frames_in(samples: Samples) -> int:
    return -(-len(samples) // FRAME_SAMPLES)


def _heard_with(samples: Samples, frame: int) -> Samples:
    """A frame behind the end of the one before it; beyond the recording all is silence."""
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
    """The energy of each frame; the last may be a part of one."""
    whole = len(samples) - len(samples) % FRAME_SAMPLES
    frames = samples[:whole].reshape(-1, FRAME_SAMPLES)
    energies: list[float] = np.einsum("ij,ij->i", frames, frames).tolist()
    rest = samples[whole:]
    return [*energies, float(rest @ rest)] if len(rest) else energies
