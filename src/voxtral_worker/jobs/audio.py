"""Transcribes the recording of a job, or answers a question about it."""

import threading
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxtral_worker.audio.clips import read_clip
from voxtral_worker.audio.recordings import (
    MAX_AUDIO_S,
    Recordings,
    from_base64,
    is_data_address,
)
from voxtral_worker.engine.answer import Engine, answer
from voxtral_worker.engine.conversation import Audio, Conversation, UserTurn
from voxtral_worker.engine.transcript import write_down
from voxtral_worker.errors import BadInput
from voxtral_worker.jobs.fetch import fetch
from voxtral_worker.jobs.outlet import Outlet, piece_of
from voxtral_worker.jobs.schema import AudioJob, AudioSource, TranscribeJob
from voxtral_worker.jobs.speech import AnswerSpeaker
from voxtral_worker.turns.recording import FindSpeech, joined

Samples: TypeAlias = NDArray[np.float32]


def read_source(source: AudioSource, is_over: threading.Event) -> Samples:
    """Samples of a job's recording, float32 [n], 16 kHz. Blocks.

    Raises BadInput that names the field; AtCapacity or EngineFailure of the decoder.
    """
    try:
        is_elsewhere = source.field == "audio_url" and not is_data_address(source.value)
        data = fetch(source.value, is_over) if is_elsewhere else from_base64(source.value)
        return read_clip(data, max_seconds=MAX_AUDIO_S, is_over=is_over)
    except BadInput as error:
        raise error.of_field(source.field) from None


async def transcribe(
    job: TranscribeJob,
    engine: Engine,
    outlet: Outlet,
    recordings: Recordings,
    find_speech: FindSpeech,
) -> None:
    """Transcribe the speech of a recording, window by window, and hand out one text.

    Raises the first error; the other windows are then cancelled.
    """
    field, options = job.source.field, job.options
    async with recordings.opened(field, partial(read_source, job.source)) as samples:
        say = partial(outlet.add_delta, 0) if job.stream else _say_nothing
        windows = joined(await find_speech(samples))
        written = await write_down(
            engine, samples, windows, options.sampling, options.language, field, say
        )
        outlet.add(piece_of(0, written.answer))


async def answer_about_audio(
    job: AudioJob,
    engine: Engine,
    outlet: Outlet,
    recordings: Recordings,
    speaker: AnswerSpeaker,
) -> None:
    """Hand out the answer to a question about the whole recording.

    Raises TooLarge if the recording and the question do not fit into the model's context.
    """
    field, options = job.source.field, job.options
    async with recordings.opened(field, partial(read_source, job.source)) as samples:
        question = () if job.question is None else (job.question,)
        conversation = Conversation(
            UserTurn((Audio(samples), *question)),
            system_prompt=options.system_prompt,
            language=options.language,
            tools=options.tools,
        )
        say = partial(outlet.add_delta, 0) if job.stream else _say_nothing
        made = await answer(engine, conversation, options.sampling, field, say)
    # The recording's place is free again here: speaking does not need it.
    outlet.add(await speaker.with_speech(piece_of(0, made)))


def _say_nothing(_: str) -> None:
    """Drop a delta: the job does not stream."""
