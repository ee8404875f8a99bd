"""`voxtral tail-check`: checks WINDOW_TAIL=sampled for a checkpoint, on recordings of your own.

Each recording is answered in both modes. As a yardstick it is answered a third time, in exact mode
but shifted by 20 ms: a change that small shows how far answers differ anyway. The model's libraries
are imported only after the recordings have been read.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from voxtral_worker.audio.clips import DECODER, read_clip
from voxtral_worker.checkpoint import fingerprint
from voxtral_worker.errors import BadInput, WorkerError
from voxtral_worker.json_text import read_json
from voxtral_worker.settings import SettingsError, read_settings
from voxtral_worker.tail_report import (
    Compared,
    MeasuredAnswer,
    as_record,
    by_length,
    objections,
    table,
)

if TYPE_CHECKING:
    from voxtral_worker.engine.conversation import Conversation
    from voxtral_worker.engine.tail_probe import Probe, Reply

# Longest recording.
MOST_SECONDS = 300.0
# 20 ms at 16 kHz.
SHIFT_SAMPLES = 320
SUFFIXES = frozenset(
    [".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".mp4", ".webm", ".aac"]
)

Samples = NDArray[np.float32]


def main(words: Sequence[str] | None = None, program: str = "voxtral tail-check") -> int:
    """Run the check. Returns 0 if the gate holds, else 1; exits with 2 for wrong usage."""
    parser = make_parser(program)
    given = parser.parse_args(words)
    options = {} if given.model is None else {"MODEL_ID": given.model}
    try:
        settings = read_settings(options=options)
        recordings = read_recordings(given.recordings)
        texts = {} if given.texts is None else read_texts(given.texts, recordings)
    except (SettingsError, OSError, WorkerError) as error:
        parser.error(_sentence(error))
    finally:
        DECODER.stop()
    from voxtral_worker.engine.model import load_model
    from voxtral_worker.engine.tail_probe import Probe
    from voxtral_worker.engine.tail_record import record_path, write_record

    try:
        loaded = load_model(settings)
        assert loaded.folder is not None, "a model that was loaded has a folder"
        mark = fingerprint(loaded.folder)
        compared = list(compare(Probe(loaded), recordings, texts))
        rows = by_length(compared)
        print(f"{table(rows)}\n\nIn brackets: the exact mode against itself, 20 ms later.\n")
        found = objections(len(recordings), rows["all"])
        about = {
            "model": loaded.model_id,
            "revision": loaded.revision,
            "fingerprint": mark,
            "device": loaded.device.type,
            "dtype": str(loaded.dtype).removeprefix("torch."),
        }
        path = given.output or record_path(mark)
        write_record(path, as_record(rows, len(recordings), found, about))
    except (OSError, WorkerError) as error:
        sys.stderr.write(f"{program}: {_sentence(error)}\n")
        return 1
    for sentence in found:
        print(f"FAIL: {sentence}")
    if not found:
        print("The gate holds: WINDOW_TAIL=sampled may serve these weights.")
    print(f"written: {path}")
    return 1 if found else 0


def make_parser(program: str) -> argparse.ArgumentParser:
    """The options. All else comes from the worker's settings."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Answer recordings with whole windows and with a sampled tail, and check "
        "whether WINDOW_TAIL=sampled suits the checkpoint.",
        epilog="Model, device and number format are the worker's settings (MODEL_ID, DEVICE, ...).",
        allow_abbrev=False,
    )
    parser.add_argument(
        "recordings",
        metavar="RECORDINGS",
        nargs="+",
        type=Path,
        help="sound files, or folders with sound files",
    )
    parser.add_argument(
        "--texts", type=Path, help='JSON with what is said: {"a.wav": "turn on the light", ...}'
    )
    parser.add_argument("--model", help="hub id or local folder (default: MODEL_ID)")
    parser.add_argument(
        "--output", type=Path, help="file for the result (default: where a worker looks for it)"
    )
    return parser


def read_recordings(paths: Sequence[Path]) -> dict[str, Samples]:
    """The sound of every file, float32 [n] at 16 kHz, by the file's name.

    Raises BadInput that names the file, and OSError.
    """
    recordings: dict[str, Samples] = {}
    for file in _files(paths):
        if file.name in recordings:
            raise BadInput(f"two recordings are named {file.name}")
        try:
            recordings[file.name] = read_clip(file.read_bytes(), max_seconds=MOST_SECONDS)
        except BadInput as error:
            raise BadInput(f"{file}: {error.message}") from None
    return recordings


def read_texts(file: Path, recordings: dict[str, Samples]) -> dict[str, str]:
    """The text of each recording, by its name. Raises BadInput, and OSError."""
    texts = read_json(file.read_bytes(), str(file))
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise BadInput(f"{file} must be an object of texts by the name of the recording")
    if unknown := sorted(texts.keys() - recordings.keys()):
        raise BadInput(f"{file} has a text for {unknown[0]}, but there is no such recording")
    return texts


def compare(
    probe: "Probe", recordings: dict[str, Samples], texts: dict[str, str]
) -> Iterator[Compared]:
    """Yield the comparisons of every recording in up to three tasks.

    The tasks: it is transcribed, answered, and answered as the second turn of a conversation.
    """
    from voxtral_worker.engine.conversation import (
        AssistantTurn,
        Audio,
        Conversation,
        Exchange,
        UserTurn,
    )

    normalized = _normalizer()
    before: tuple[Samples, tuple[int, ...]] | None = None
    for name, samples in tqdm(recordings.items(), mininterval=5, disable=None):
        later = np.concatenate([np.zeros(SHIFT_SAMPLES, np.float32), samples])

        def said(samples: Samples) -> UserTurn:
            return UserTurn((Audio(samples),))

        def written(samples: Samples) -> Conversation:
            return Conversation(said(samples), transcribe=True)

        def second(samples: Samples, before: Any = before) -> Conversation:
            first, answer = before
            exchange = Exchange(said(first), AssistantTurn(answer))
            return Conversation(said(samples), (exchange,))

        tasks: dict[str, Callable[[Samples], Conversation]] = {
            "transcription": written,
            "chat": lambda samples: Conversation(said(samples)),
        }
        if before is not None:
            tasks["second turn"] = second
        for task, make in tasks.items():
            exact, sampled, shifted = _answers(probe, make, samples, later)
            text = texts.get(name) if task == "transcription" else None
            yield Compared(
                name,
                task,
                len(samples) / 16_000,
                exact=_measured(probe, exact, exact, normalized),
                sampled=_measured(probe, sampled, exact, normalized),
                shifted=_measured(probe, shifted, exact, normalized),
                said=None if text is None else tuple(normalized(text).split()),
            )
            if task == "chat":
                before = samples, tuple(probe.spoken(exact))


def _answers(
    probe: "Probe",
    make: "Callable[[Samples], Conversation]",
    samples: Samples,
    later: Samples,
) -> "tuple[Reply, Reply, Reply]":
    """The exact answer, the sampled one, and the exact one 20 ms later."""
    exact = probe.answer(lambda: make(samples), "exact")
    sampled = probe.answer(lambda: make(samples), "sampled", exact)
    return exact, sampled, probe.answer(lambda: make(later), "exact", exact)


def _measured(
    probe: "Probe", reply: "Reply", exact: "Reply", normalized: Callable[[str], str]
) -> MeasuredAnswer:
    ours, theirs = exact.logits.log_softmax(1), reply.logits.log_softmax(1)
    # Rounding can make a divergence of nearly 0 negative.
    kl = (ours.exp() * (ours - theirs)).sum(1).clamp(min=0)
    return MeasuredAnswer(
        tuple(normalized(probe.text(reply)).split()),
        reply.tokens == exact.tokens,
        reply.loops,
        tuple(kl.tolist()),
        reply.first_token_s,
        reply.rows,
    )


def _normalizer() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    normalize: Callable[[str], str] = BasicTextNormalizer()
    return normalize


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if not found:
            raise BadInput(f"{path} has no sound files")
        yield from found


def _sentence(error: Exception) -> str:
    return error.message if isinstance(error, WorkerError) else str(error)


if __name__ == "__main__":
    sys.exit(main())
