"""The kinds of audio files that are read whole, and how to make one of each.

`docs/audio-files.md` has the same table.
"""

import base64
import io
import shlex
import struct
import subprocess
import tempfile
import wave
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from voxtral_worker.settings import EMBEDDED_MODEL

RATE = 16_000
CLIPS = EMBEDDED_MODEL / "clips"
SENTENCES = ("turn-on-the-kitchen-light", "stop-the-music")

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Kind:
    """A kind of file: its row in the docs, and how one is made of the speech."""

    name: str
    make: Callable[[], bytes]
    # How often the speech is in it.
    times: int = 1


@cache
def speech() -> Samples:
    """Two sentences, float32 [n], 16 kHz: what every file here says."""
    parts = []
    for name in SENTENCES:
        with wave.open(str(CLIPS / f"{name}.wav")) as clip:
            parts.append(np.frombuffer(clip.readframes(clip.getnframes()), "<i2"))
    samples: NDArray[np.float32] = (np.concatenate(parts) / 32768).astype(np.float32)
    return samples


def wav(samples: Samples | None = None, rate: int = RATE) -> bytes:
    """Samples, float32 [n] or [n, channels], as a wav of 16 bits."""
    samples = speech() if samples is None else samples
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        written.setsampwidth(2)
        written.setframerate(rate)
        written.writeframes((samples * 32767).astype("<i2").tobytes())
    return file.getvalue()


@cache
def encoded(container: str, options: str = "", inputs: str = "", to_pipe: bool = False) -> bytes:
    """The speech as FFmpeg writes it: to a file, or to a pipe, where it cannot go back."""
    with tempfile.TemporaryDirectory() as folder:
        path = "pipe:1" if to_pipe else f"{folder}/made"
        command = f"ffmpeg -hide_banner -loglevel error -i pipe:0 {inputs} {options} -f {container}"
        made = subprocess.run(
            [*shlex.split(command), "-y", path], input=wav(), capture_output=True, timeout=60
        )
        assert made.returncode == 0, made.stderr.decode()
        return made.stdout if to_pipe else Path(path).read_bytes()


def by_pyav(container: str, codec: str, rate: int) -> bytes:
    """The speech by the encoders that PyAV brings, where Debian's FFmpeg has none."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as made:
        track = made.add_stream(codec, rate=rate, layout="mono")
        resampler = av.AudioResampler("s16", "mono", rate)
        samples = (speech() * 32767).astype("<i2")[None]
        frame = av.AudioFrame.from_ndarray(samples, "s16", "mono")
        frame.sample_rate = RATE
        for given in [*resampler.resample(frame), *resampler.resample(None)]:
            made.mux(track.encode(given))
        made.mux(track.encode(None))
    return file.getvalue()


def by_libsndfile(container: str) -> Callable[[], bytes]:
    def make() -> bytes:
        file = io.BytesIO()
        soundfile.write(file, speech(), RATE, format=container, subtype="PCM_16")
        return file.getvalue()

    return make


def ffmpeg(container: str, options: str = "", inputs: str = "") -> Callable[[], bytes]:
    return lambda: encoded(container, options, inputs)


def piped(container: str, options: str = "") -> Callable[[], bytes]:
    return lambda: encoded(container, options, to_pipe=True)


def joined(*makes: Callable[[], bytes]) -> Callable[[], bytes]:
    return lambda: b"".join(make() for make in makes)


def twice(make: Callable[[], bytes]) -> Callable[[], bytes]:
    return joined(make, make)


def sized(size: int) -> Callable[[], bytes]:
    """A wav whose header names any size of its samples."""

    def edit() -> bytes:
        data = wav()
        return data[:40] + struct.pack("<I", size) + data[44:]

    return edit


def big_endian() -> bytes:
    """A wav with its numbers the other way round."""
    samples = (speech() * 32767).astype(">i2").tobytes()
    form = struct.pack(">HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
    body = b"WAVEfmt " + struct.pack(">I", 16) + form + b"data" + struct.pack(">I", len(samples))
    return b"RIFX" + struct.pack(">I", len(body) + len(samples)) + body + samples


def cancelled() -> bytes:
    """Two channels that are each other's opposite."""
    return wav(np.stack([speech(), -speech()], axis=1))


def many_channels(count: int) -> Callable[[], bytes]:
    """Only the last of many channels says anything."""

    def make() -> bytes:
        samples = np.zeros((len(speech()), count), np.float32)
        samples[:, -1] = speech()
        return wav(samples)

    return make


COVER = "-f lavfi -i color=red:size=64x64:rate=1:duration=1 -map 0:a -map 1:v -c:v mjpeg"
FILM = "-f lavfi -i testsrc=size=64x64:rate=10:duration=4 -map 1:v -map 0:a -c:v"
SUBTITLES = base64.b64encode(b"1\n00:00:00,000 --> 00:00:02,000\nlight\n\n").decode()
SUBTITLED = f"-f srt -i data:text/plain;base64,{SUBTITLES} -map 0:a -map 1:s"
TWO_TRACKS = "-f lavfi -i sine=440:duration=4 -map 0:a -map 1:a"
OPUS = ffmpeg("ogg", "-c:a libopus")
VORBIS_44 = ffmpeg("ogg", "-c:a libvorbis -ar 44100")
MP3 = ffmpeg("mp3", "-ar 44100")
FRAGMENTS = piped("mp4", "-c:a aac -ar 48000 -movflags frag_keyframe+empty_moov")
WAV_CODECS = {
    "8-bit": "pcm_u8",
    "16-bit": "pcm_s16le",
    "24-bit": "pcm_s24le",
    "32-bit": "pcm_s32le",
    "32-bit float": "pcm_f32le",
    "64-bit float": "pcm_f64le",
    "μ-law": "pcm_mulaw",
    "A-law": "pcm_alaw",
    "IMA ADPCM": "adpcm_ima_wav",
    "Microsoft ADPCM": "adpcm_ms",
    "MP3 inside": "libmp3lame -ar 48000",
}

KINDS = [
    *(Kind(f"wav, {name}", ffmpeg("wav", f"-c:a {codec}")) for name, codec in WAV_CODECS.items()),
    Kind("wav, GSM 6.10", ffmpeg("wav", "-ar 8000 -c:a libgsm_ms")),
    Kind("wav, G.722", ffmpeg("wav", "-c:a g722")),
    Kind("wav, G.726", ffmpeg("wav", "-ar 8000 -c:a g726 -b:a 32k")),
    Kind("wav, 64 channels", many_channels(64)),
    Kind("wav, 384 kHz", ffmpeg("wav", "-ar 384000")),
    Kind("wav, big-endian (RIFX)", big_endian),
    Kind("wav beyond 4 GiB (RF64)", ffmpeg("wav", "-rf64 always")),
    Kind("wav, Wave64", ffmpeg("w64")),
    Kind("wav from a pipe", piped("wav")),
    Kind("wav whose samples have the size 0", sized(0)),
    Kind("wav whose samples have the size −1", sized(0xFFFFFFFF)),
    Kind("wav whose samples have a size that is too small", sized(1_000)),
    Kind("wav whose samples have a size that is too large", sized(0x7FFFF000)),
    Kind("wav, two channels that cancel each other out", cancelled),
    Kind("wavs joined", twice(wav), 2),
    Kind("mp3", ffmpeg("mp3", "-ar 44100 -b:a 128k")),
    Kind("mp3 of variable rate", ffmpeg("mp3", "-q:a 4")),
    Kind("mp3, 8 kHz", ffmpeg("mp3", "-ar 8000 -b:a 16k")),
    Kind("mp3 with a cover and tags", ffmpeg("mp3", f"{COVER} -metadata title=a")),
    Kind("mp3 without a first frame that counts", ffmpeg("mp3", "-ar 48000 -write_xing 0")),
    Kind("mp3s joined", twice(MP3), 2),
    Kind("mp2", ffmpeg("mp2", "-ar 44100")),
    Kind("flac", ffmpeg("flac")),
    Kind("flac, 24-bit", ffmpeg("flac", "-sample_fmt s32 -ar 96000")),
    Kind("flac from a pipe", piped("flac")),
    Kind("flacs joined", twice(ffmpeg("flac")), 2),
    Kind("ogg, Vorbis", ffmpeg("ogg", "-c:a libvorbis")),
    Kind("ogg, Opus", OPUS),
    Kind("ogg, Opus, as phones send it", ffmpeg("opus", "-c:a libopus -b:a 16k -ac 1")),
    Kind("ogg, FLAC", ffmpeg("ogg", "-c:a flac")),
    Kind("ogg, Speex", ffmpeg("ogg", "-c:a libspeex")),
    Kind("oggs joined", twice(ffmpeg("ogg", "-c:a libvorbis")), 2),
    Kind("webm, Opus, as browsers record it", piped("webm", "-c:a libopus -live 1")),
    Kind("webm, Opus", ffmpeg("webm", "-c:a libopus")),
    Kind("webm, Vorbis", ffmpeg("webm", "-c:a libvorbis")),
    Kind("webm, film", ffmpeg("webm", f"{FILM} libvpx -c:a libopus")),
    Kind("webms joined", twice(piped("webm", "-c:a libopus")), 2),
    Kind("mkv, AAC", ffmpeg("matroska", "-c:a aac -ar 48000")),
    Kind("mkv, film with two tracks: the first is read", ffmpeg("matroska", TWO_TRACKS)),
    Kind("mkv with subtitles", ffmpeg("matroska", f"{SUBTITLED} -c:s ass -c:a flac")),
    Kind("mp4 with subtitles", ffmpeg("mp4", f"{SUBTITLED} -c:s mov_text -c:a aac -ar 48000")),
    Kind("m4a, AAC", ffmpeg("ipod", "-c:a aac -ar 48000")),
    Kind("m4a, ALAC", ffmpeg("ipod", "-c:a alac")),
    Kind("m4as joined", twice(ffmpeg("ipod", "-c:a aac -ar 48000")), 2),
    Kind("mp4, AAC", ffmpeg("mp4", "-c:a aac -ar 48000")),
    Kind("mp4 in fragments", FRAGMENTS),
    Kind("mp4, film", ffmpeg("mp4", f"{FILM} mpeg4 -c:a aac -ar 48000")),
    Kind("mp4, Opus", ffmpeg("mp4", "-c:a libopus")),
    Kind("mov, PCM", ffmpeg("mov", "-c:a pcm_s16be")),
    Kind("mov, film", ffmpeg("mov", f"{FILM} mjpeg -c:a aac -ar 48000")),
    Kind("3gp, AMR narrow-band", lambda: by_pyav("3gp", "libopencore_amrnb", 8000)),
    Kind("3gp, AAC", ffmpeg("3gp", "-c:a aac -ar 48000")),
    Kind("amr, narrow-band", lambda: by_pyav("amr", "libopencore_amrnb", 8000)),
    Kind("aac (ADTS)", ffmpeg("adts", "-c:a aac -ar 48000")),
    Kind("aac (LATM)", ffmpeg("latm", "-c:a aac -ar 48000")),
    Kind("ac3", ffmpeg("ac3", "-ar 48000")),
    Kind("eac3", ffmpeg("eac3", "-ar 48000")),
    Kind("dts", ffmpeg("dts", "-ar 48000 -strict -2")),
    Kind("TrueHD", ffmpeg("truehd", "-ar 48000 -strict -2")),
    Kind("aiff", ffmpeg("aiff")),
    Kind("aiff, compressed (AIFC)", ffmpeg("aiff", "-c:a adpcm_ima_qt")),
    Kind("aiffs joined", twice(ffmpeg("aiff")), 2),
    Kind("au", ffmpeg("au")),
    Kind("au, μ-law, from a pipe", piped("au", "-ar 8000 -c:a pcm_mulaw")),
    Kind("caf, PCM", ffmpeg("caf")),
    Kind("caf, ALAC", ffmpeg("caf", "-c:a alac")),
    Kind("wma", ffmpeg("asf", "-c:a wmav2")),
    Kind("wma, version 1", ffmpeg("asf", "-c:a wmav1")),
    Kind("wmv, film", ffmpeg("asf", f"{FILM} wmv2 -c:a wmav2")),
    Kind("avi, film", ffmpeg("avi", f"{FILM} mpeg4 -c:a libmp3lame -ar 48000")),
    Kind("flv, film", ffmpeg("flv", f"{FILM} flv1 -c:a aac -ar 48000")),
    Kind("flv, Nellymoser", ffmpeg("flv", "-ar 22050 -c:a nellymoser")),
    Kind("flv, Speex", ffmpeg("flv", "-c:a libspeex")),
    Kind("mpeg, film", ffmpeg("mpeg", f"{FILM} mpeg2video -r 25 -c:a mp2")),
    Kind("vob, AC-3", ffmpeg("vob", "-ar 48000 -c:a ac3")),
    Kind("mpegts, AAC", ffmpeg("mpegts", "-c:a aac -ar 48000")),
    Kind(
        "mpegts, MP3, film", ffmpeg("mpegts", f"{FILM} mpeg2video -r 25 -c:a libmp3lame -ar 48000")
    ),
    Kind("mxf", ffmpeg("mxf", f"{FILM} mpeg2video -r 25 -c:a pcm_s16le -ar 48000")),
    Kind("nut", ffmpeg("nut", "-c:a flac")),
    Kind("wv (WavPack)", ffmpeg("wv")),
    Kind("tta", ffmpeg("tta")),
    Kind("voc", ffmpeg("voc", "-ar 8000 -c:a pcm_u8")),
    Kind("sox", ffmpeg("sox")),
    Kind("ircam", ffmpeg("ircam")),
    Kind("rm (RealAudio 1)", ffmpeg("rm", "-ar 8000 -c:a real_144")),
    Kind("wtv", ffmpeg("wtv", "-c:a mp2")),
    Kind("caf, Opus", ffmpeg("caf", "-c:a libopus")),
    *(
        Kind(name, by_libsndfile(kind))
        for name, kind in {
            "NIST Sphere": "NIST",
            "pvf": "PVF",
            "iff (8SVX), 16-bit": "SVX",
            "avr": "AVR",
            "sds": "SDS",
        }.items()
    ),
    Kind("wav beyond 4 GiB (RF64) from a pipe", piped("wav", "-rf64 always")),
    Kind("wav, Wave64, from a pipe", piped("w64")),
    Kind("aiff from a pipe", piped("aiff")),
    Kind("caf from a pipe", piped("caf", "-c:a pcm_s16le")),
    Kind("wv from a pipe", piped("wv")),
    Kind("mkv from a pipe", piped("matroska", "-c:a aac -ar 48000")),
    Kind("flv from a pipe", piped("flv", "-c:a aac -ar 48000")),
    Kind("wma from a pipe", piped("asf", "-c:a wmav2")),
    Kind("avi from a pipe", piped("avi", "-c:a mp2")),
    Kind("oggs of two codecs joined", joined(OPUS, VORBIS_44), 2),
    Kind("oggs of two rates joined", joined(ffmpeg("ogg", "-c:a libvorbis"), VORBIS_44), 2),
    Kind("oggs of FLAC joined", twice(ffmpeg("ogg", "-c:a flac")), 2),
    Kind("oggs of Opus joined", twice(OPUS), 2),
    Kind("mp3s of two rates joined", joined(MP3, ffmpeg("mp3", "-ar 48000")), 2),
    Kind("mp4s in fragments joined", twice(FRAGMENTS), 2),
    Kind("aacs joined", twice(ffmpeg("adts", "-c:a aac -ar 48000")), 2),
    Kind("amrs joined", twice(lambda: by_pyav("amr", "libopencore_amrnb", 8000)), 2),
    Kind("wmas joined", twice(ffmpeg("asf", "-c:a wmav2")), 2),
    Kind("Wave64s joined", twice(ffmpeg("w64")), 2),
    Kind("aus joined", twice(ffmpeg("au")), 2),
    Kind("cafs joined", twice(ffmpeg("caf")), 2),
    Kind("wvs joined", twice(ffmpeg("wv")), 2),
    Kind("ttas joined", twice(ffmpeg("tta")), 2),
    Kind("vocs joined", twice(ffmpeg("voc", "-ar 8000 -c:a pcm_u8")), 2),
    Kind("ac3s joined", twice(ffmpeg("ac3", "-ar 48000")), 2),
    Kind("mpegts joined", twice(ffmpeg("mpegts", "-c:a aac -ar 48000")), 2),
]
