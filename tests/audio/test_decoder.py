"""What a file may do to the worker: nothing."""

import contextlib
import io
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from tests.support.audio_kinds import ffmpeg, piped, speech, wav
from tests.support.metric_values import value_of
from voxtral_worker import metrics
from voxtral_worker.audio.clips import read_clip
from voxtral_worker.audio.decoder import media, process
from voxtral_worker.audio.decoder.process import FILES_AT_ONCE, Decoder
from voxtral_worker.errors import AtCapacity, BadAudio, BadInput, EngineFailure, TooLarge

needs_ffmpeg = pytest.mark.skipif(
    not os.environ.get("CI") and shutil.which("ffmpeg") is None,
    reason="FFmpeg is not installed",
)
WAIT_S = 60.0

# Playlists.


def playlists(path: str) -> dict[str, str]:
    """Texts that name a file, in the forms that FFmpeg knows."""
    return {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{path}\n#EXT-X-ENDLIST\n",
        "hls with a key": f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{path}"\n#EXTINF:9,\n{path}\n',
        "hls of the network": "#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:1/a.wav\n#EXT-X-ENDLIST\n",
        "ffconcat": f"ffconcat version 1.0\nfile {path}\n",
        "ffconcat with an option": f"ffconcat version 1.0\nfile {path}\noption safe 0\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
        "dash": f'<?xml version="1.0"?><MPD><Period><BaseURL>{path}</BaseURL></Period></MPD>',
        "asx": f'<asx version="3.0"><entry><ref href="{path}"/></entry></asx>',
        "pls": f"[playlist]\nFile1={path}\nNumberOfEntries=1\n",
        "smil": f'<smil><body><audio src="{path}"/></body></smil>',
        "rtsp": "RTSPtextRTSP://127.0.0.1:1/a\n",
        "asf reference": f"[Reference]\nRef1={path}\n",
    }


FORMS = sorted(playlists(""))
ID3 = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recording of the worker's own, in its folder."""
    path = tmp_path / "secret.wav"
    path.write_bytes(wav())
    monkeypatch.chdir(tmp_path)
    return path


def test_without_the_lists_a_playlist_would_read_a_file_of_the_worker(secret: Path) -> None:
    text = playlists(secret.name)["ffconcat"].encode()
    with av.open(io.BytesIO(text), mode="r") as container:
        assert next(container.decode(audio=0)).samples


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [str.__call__, lambda path: f"file:{path}", os.path.basename])
def test_a_playlist_opens_nothing(
    secret: Path, form: str, name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = playlists(name(str(secret)))[form].encode()
    for disguised in (text, b"\xef\xbb\xbf" + text, b"\n\n " + text, ID3 + text):
        with pytest.raises(BadAudio, match="cannot be decoded"):
            read_clip(disguised, max_seconds=60)
        # FFmpeg's own lists are enough, too, and in a process that could open files.
        with monkeypatch.context() as patch:
            patch.setattr(media, "_PLAYLIST", re.compile(rb"\0never"))
            with pytest.raises(BadAudio, match="cannot be decoded"):
                media.read_sound(disguised, 60)


def with_reference(film: bytes, path: str) -> bytes:
    """A mov whose samples are said to lie in another file."""
    at = film.index(b"dref") + 12
    size = int.from_bytes(film[at : at + 4], "big")
    name = path.encode() + b"\0"
    entry = struct.pack(">I4sI", 12 + len(name), b"url ", 0) + name
    made = bytearray(film[:at] + entry + film[at + size :])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        start = film.rindex(box, 0, at) - 4
        grown = int.from_bytes(made[start : start + 4], "big") + len(entry) - size
        made[start : start + 4] = grown.to_bytes(4, "big")
    return bytes(made)


@needs_ffmpeg
@pytest.mark.parametrize("scheme", ["", "file:", "file://"])
def test_a_mov_whose_samples_lie_elsewhere_is_read_from_its_own_bytes(
    secret: Path, scheme: str
) -> None:
    film = ffmpeg("mov", "-c:a pcm_s16be -map_metadata -1 -fflags +bitexact")()
    own = read_clip(film, max_seconds=60)
    secret.write_bytes(wav(np.ones(1000, np.float32)))
    referring = with_reference(film, f"{scheme}{secret}")
    assert np.array_equal(read_clip(referring, max_seconds=60), own)
    assert np.array_equal(np.concatenate(media.read_sound(referring, 60)), own)


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"PK\x03\x04" + bytes(100),
        b"GIF89a" + bytes(100),
        b"%PDF-1.7\n",
        b"1\n00:00:00,000 --> 00:00:02,000\nhello\n",
        b"WEBVTT\n\n00:00.000 --> 00:02.000\nhello\n",
        b"hello, this is a text",
        bytes(5000),
        b"x",
    ],
)
def test_what_is_no_sound_is_told_so(data: bytes) -> None:
    with pytest.raises(BadAudio, match="cannot be decoded"):
        read_clip(data, max_seconds=60)


# Bombs.


def test_a_wav_of_844_bytes_that_claims_gibibytes_is_what_it_holds() -> None:
    data = bytearray(wav(np.zeros(400, np.float32)))
    data[4:8] = data[40:44] = (0x7FFFF000).to_bytes(4, "little")
    assert len(data) == 844
    assert len(read_clip(bytes(data), max_seconds=60)) == 400


@needs_ffmpeg
def test_days_of_opus_in_a_few_megabytes_end_at_the_longest_audio() -> None:
    head = piped("webm", "-c:a libopus")().partition(b"\x1f\x43\xb6\x75")[0]
    # A packet that says "120 ms of silence" in two bytes.
    block = b"\xa3\x86\x81\x00\x00\x80\x1b\x02"
    days = (
        head + b"\x1f\x43\xb6\x75\x01\xff\xff\xff\xff\xff\xff\xff\xe7\x81\x00" + block * 1_500_000
    )
    with pytest.raises(TooLarge, match="longer than 60 s"):
        read_clip(days, max_seconds=60)


def test_the_processes_take_little_memory_whatever_the_file() -> None:
    many = io.BytesIO()
    soundfile.write(many, np.zeros((60 * 96_000, 8), np.int16), 96_000, format="FLAC")
    odd = bytearray(wav(np.zeros(400, np.float32)))
    odd[24:28] = (192_007).to_bytes(4, "little")
    code = """
import resource
from voxtral_worker.audio.decoder import child, media
from voxtral_worker.errors import BadAudio
def read(data, max_seconds):
    media.read_sound(data, max_seconds)
    raise BadAudio(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024))
child.main(read)
"""
    with running(code) as decoder:
        for data in (many.getvalue(), bytes(odd)):
            with pytest.raises(BadAudio) as caught:
                decode(decoder, data, 1800.0)
            assert int(caught.value.message) < 120


# Crashes and hangs.

ATTACKS = {
    b"segfault": "os.kill(os.getpid(), signal.SIGSEGV)",
    b"abort": "os.abort()",
    b"exit": "os._exit(0)",
    b"exit with an error": "os._exit(3)",
    b"bug": "{}['key']",
    b"killed": "os.kill(os.getpid(), signal.SIGILL)",
    b"loop": "sum(iter(int, 1))",
    b"sleep": "time.sleep(600)",
    b"memory": "bytearray(4 << 30)",
    b"recursion": "(lambda f: f(f))(lambda f: f(f))",
    b"too much sound": "[np.zeros(60 * 16_000, np.float32)]",
    b"bytes": "[np.zeros(7, np.uint8)]",
    b"loud": "[np.full(16_000, 7, np.float32)]",
    b"no numbers": "[np.full(16_000, np.nan, np.float32)]",
    b"nothing": "[]",
    b"file": "open('/etc/passwd')",
    b"write": "open('/tmp/decoder-was-here', 'w')",
    b"socket": "socket.socket()",
    b"fork": "os.fork()",
    b"keys": "1 / (len(os.environ) - len({'OPENBLAS_NUM_THREADS', 'OMP_NUM_THREADS'}))",
}
SLOW = {b"loop", b"sleep"}


def main(cpu_s: int = 1, wall_s: float = 10.0) -> str:
    """A fork server whose decoder does what a file says."""
    return f"""
import os, signal, socket, time
import numpy as np
from voxtral_worker.audio.decoder import child, media
ATTACKS = {ATTACKS!r}
def read(data, max_seconds):
    if data in ATTACKS:
        return eval(ATTACKS[data])
    return media.read_sound(data, max_seconds)
child.main(read, child.Limits(64 << 20, {cpu_s}, {wall_s}))
"""


@contextlib.contextmanager
def running(main: str, answer_s: float = WAIT_S) -> Iterator[Decoder]:
    decoder = Decoder(main, answer_s=answer_s)
    try:
        yield decoder
    finally:
        decoder.stop()


@pytest.fixture(scope="module")
def attacked() -> Iterator[Decoder]:
    with running(main()) as decoder:
        yield decoder


def decode(decoder: Decoder, data: bytes, max_seconds: float = 10.0) -> int:
    return len(decoder.decode(data, max_seconds, threading.Event()))


def outcomes(outcome: str) -> float:
    return float(value_of(metrics.files_decoded.labels(outcome)))


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def server_of(decoder: Decoder) -> int:
    """The fork server's id."""
    assert decoder.process_id is not None
    return decoder.process_id


def wait_for_children_of(decoder: Decoder, count: int = 1) -> int:
    """The fork server's id, once it has so many children."""
    deadline_s = time.monotonic() + WAIT_S
    while not (decoder.process_id and len(children_of(decoder.process_id)) == count):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    return decoder.process_id


@pytest.mark.parametrize("attack", sorted(ATTACKS), ids=bytes.decode)
def test_a_file_that_fells_the_decoder_is_bad_audio_and_the_next_is_read(
    attacked: Decoder, attack: bytes
) -> None:
    assert decode(attacked, wav()) == len(speech())
    server = server_of(attacked)
    outcome = "timed_out" if attack in SLOW else "refused" if attack == b"memory" else "crashed"
    before = outcomes(outcome)
    with pytest.raises(BadAudio, match="cannot be decoded") as caught:
        decode(attacked, attack)
    assert outcomes(outcome) == before + 1
    assert ("takes too long" in caught.value.message) == (attack in SLOW)
    assert decode(attacked, wav()) == len(speech())
    # The same fork server: other files' children were its own, and were left alone.
    assert attacked.process_id == server
    assert not Path("/tmp/decoder-was-here").exists()


def test_files_side_by_side_do_not_hear_of_each_others_ends(attacked: Decoder) -> None:
    def one(data: bytes) -> int:
        try:
            return decode(attacked, data)
        except BadAudio:
            return -1

    files = [wav(), b"segfault", wav(), b"abort", wav(), b"exit", wav(), b"loop"] * 3
    with ThreadPoolExecutor(len(files)) as pool:
        found = list(pool.map(one, files))
    assert found == [-1 if data in ATTACKS else len(speech()) for data in files]


def test_a_decoder_that_was_killed_is_started_again(attacked: Decoder) -> None:
    decode(attacked, wav())
    os.kill(server_of(attacked), signal.SIGKILL)
    assert decode(attacked, wav()) == len(speech())


def test_a_file_whose_decoder_is_killed_beside_it_is_decoded_again(tmp_path: Path) -> None:
    mark = tmp_path / "the next one is not slow"
    is_slow = f"is_slow = not os.path.exists({str(mark)!r})\ndef read"
    slow = main(wall_s=600.0).replace("def read", is_slow, 1)
    slow = slow.replace("    if data", "    time.sleep(600 * is_slow)\n    if data", 1)
    with running(slow) as decoder, ThreadPoolExecutor(1) as pool:
        found = pool.submit(decode, decoder, wav())
        server = wait_for_children_of(decoder)
        mark.touch()
        lost = outcomes("lost")
        os.kill(server, signal.SIGKILL)
        assert found.result(WAIT_S) == len(speech())
        assert outcomes("lost") == lost + 1


def test_a_decoder_that_cannot_start_is_our_failure_and_not_the_files() -> None:
    with running("raise SystemExit(3)") as decoder, pytest.raises(EngineFailure):
        decode(decoder, wav())


def test_a_decoder_that_hangs_as_a_whole_is_ended() -> None:
    code = "import os, time\nos.write(0, b'[]\\n')\ntime.sleep(600)"
    with running(code, answer_s=0.5) as decoder:
        with pytest.raises(EngineFailure):
            decode(decoder, wav())
        assert decoder.process_id is None


def test_nobody_decodes_for_a_caller_who_has_gone() -> None:
    with running(main(cpu_s=60, wall_s=600.0)) as decoder, ThreadPoolExecutor(1) as pool:
        is_over = threading.Event()
        asked = pool.submit(decoder.decode, b"sleep", 10.0, is_over)
        server = wait_for_children_of(decoder)
        is_over.set()
        with pytest.raises(BadInput, match="was cancelled"):
            asked.result(WAIT_S)
        deadline_s = time.monotonic() + WAIT_S
        while children_of(server):
            assert time.monotonic() < deadline_s
            time.sleep(0.01)


def test_a_wait_for_a_place_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PLACE_S", 0.5)
    with (
        running(main(cpu_s=60, wall_s=600.0)) as decoder,
        ThreadPoolExecutor(FILES_AT_ONCE) as pool,
    ):
        is_over = threading.Event()
        asked = [pool.submit(decoder.decode, b"sleep", 1.0, is_over) for _ in range(FILES_AT_ONCE)]
        wait_for_children_of(decoder, FILES_AT_ONCE)
        with pytest.raises(AtCapacity):
            decode(decoder, wav())
        is_over.set()
        for one in asked:
            with pytest.raises(BadInput):
                one.result(WAIT_S)
        assert decode(decoder, wav()) == len(speech())


def test_the_processes_end_with_the_worker() -> None:
    code = """
import os, signal, threading
from voxtral_worker.audio.clips import DECODER, read_clip
from tests.support.audio_kinds import wav
read_clip(wav(), max_seconds=10)
print(DECODER.process_id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=WAIT_S)
    server = int(done.stdout)
    deadline_s = time.monotonic() + WAIT_S
    while is_running(server):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_a_worker_that_leaves_while_the_processes_start_hears_nothing_of_it() -> None:
    ours, theirs = socket.socketpair()
    child = subprocess.Popen(
        [sys.executable, "-c", process._MAIN],
        stdin=theirs.fileno(),
        stdout=theirs.fileno(),
        stderr=subprocess.PIPE,
    )
    theirs.close()
    # It has said that it is ready, and that was not read.
    assert select.select([ours], [], [], WAIT_S)[0]
    ours.close()
    _, told = child.communicate(timeout=WAIT_S)
    assert (child.returncode, told) == (0, b"")


def is_running(pid: int) -> bool:
    """Whether a process is there and not a zombie that was not waited for."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_what_the_child_needs_is_slim() -> None:
    code = "import sys, voxtral_worker.audio.decoder.child; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert not {b"torch", b"aiohttp", b"transformers", b"prometheus_client"} & set(loaded.split())


def test_wavs_of_every_length_keep_it() -> None:
    for count in (1, 2, 159, 16_000, 16_001):
        assert len(read_clip(wav(np.full(count, 0.5, np.float32)), max_seconds=10)) == count


def test_the_bundled_clips_are_read_to_the_sample() -> None:
    for path in sorted((Path(__file__).parents[2] / "models/voxtral-tiny/clips").glob("*.wav")):
        with wave.open(str(path)) as clip:
            said = np.frombuffer(clip.readframes(clip.getnframes()), "<i2") / np.float32(32768)
        assert np.array_equal(read_clip(path.read_bytes(), max_seconds=60), said)
