"""Reads the sound of one file with FFmpeg's libraries; runs in the decoder's child only.

FFmpeg also reads playlists and opens the addresses they contain. So FFmpeg gets bytes and never a
file name, it may open no protocol, and it may use only the containers and codecs listed here.
"""

import io
import re
from collections.abc import Iterator
from typing import Any

import av
import av.logging
import numpy as np
from av.stream import Discard

from voxtral_worker.audio.decoder.joined import files_in
from voxtral_worker.audio.decoder.mending import mended
from voxtral_worker.audio.decoder.mono import Mono, Samples
from voxtral_worker.errors import BadAudio

# Containers of sound or film that read nothing but their own bytes.
FORMATS = frozenset(
    "aac ac3 aiff amr ape asf au avi avr caf dsf dss dts dtshd eac3 flac flv iff ircam latm loas"
    " matroska webm mlp mov mp4 m4a 3gp 3g2 mj2 mp3 mpc mpc8 mpeg mpegts mxf nistsphere nut ogg oma"
    " pvf qcp qoa rm sds shn sox tak truehd tta voc w64 wav wtv wv xwma".split()
)
CODECS = frozenset(
    "8svx_exp 8svx_fib aac aac_fixed aac_latm ac3 ac3_fixed adpcm_ima_dk3 adpcm_ima_dk4"
    " adpcm_ima_qt adpcm_ima_wav adpcm_ms adpcm_sbpro_2 adpcm_sbpro_3 adpcm_sbpro_4"
    " adpcm_swf adpcm_yamaha alac als amrnb amrwb ape atrac1 atrac3 atrac3plus cook dca"
    " dsd_lsbf dsd_lsbf_planar dsd_msbf dsd_msbf_planar dss_sp dvaudio eac3 evrc flac"
    " g722 g723_1 g726 g726le g729 gsm gsm_ms ilbc libopencore_amrnb libopencore_amrwb"
    " libopus mace3 mace6 mlp mp1 mp1float mp2 mp2float mp3 mp3adu mp3adufloat mp3float"
    " mp3on4 mp3on4float mpc7 mpc8 msnsiren nellymoser opus pcm_alaw pcm_bluray pcm_dvd"
    " pcm_f16le pcm_f24le pcm_f32be pcm_f32le pcm_f64be pcm_f64le pcm_mulaw pcm_s16be"
    " pcm_s16be_planar pcm_s16le pcm_s16le_planar pcm_s24be pcm_s24le pcm_s24le_planar"
    " pcm_s32be pcm_s32le pcm_s32le_planar pcm_s64be pcm_s64le pcm_s8 pcm_s8_planar"
    " pcm_u16be pcm_u16le pcm_u24be pcm_u24le pcm_u32be pcm_u32le pcm_u8 qcelp qdm2 qdmc"
    " qoa ralf real_144 real_288 s302m shorten sipr speex tak truehd truespeech tta"
    " vorbis wavpack wmalossless wmapro wmav1 wmav2 wmavoice".split()
)
_OPTIONS = {
    "format_whitelist": ",".join(sorted(FORMATS)),
    "codec_whitelist": ",".join(sorted(CODECS)),
    # No protocol has this name, so nothing that a file refers to can be opened.
    "protocol_whitelist": "none",
    "max_streams": "64",
    "max_probe_packets": "256",
}
# Packets in a row that may fail. A recording with damaged parts has fewer; data with more of them
# is not a recording, and would only take time.
MOST_FAILURES = 1_000
_PLAYLIST = re.compile(
    rb"(\xef\xbb\xbf)?\s*(#EXTM3U|ffconcat|\[playlist\]|\[reference\]|v=0\r?\n|<(\?xml|mpd|asx|smil))",
    re.IGNORECASE,
)
# Integer samples are divided by this. Unsigned bytes have their zero at 128.
_FULL_SCALE = {"u8": 1 << 7, "s16": 1 << 15, "s32": 1 << 31, "s64": 1 << 63}
_DTYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}

av.logging.set_level(av.logging.PANIC)


def read_sound(data: bytes, max_seconds: float) -> list[Samples]:
    """The sound of a file in pieces, float32 [n], mono, 16 kHz; joined files count as one.

    Channels are averaged. If they cancel each other out, the loudest one is taken instead. Raises
    BadAudio if the file cannot be decoded, TooLarge if it is longer than `max_seconds`.
    """
    mono = _mono(data, Mono(max_seconds))
    loudest = mono.loudest_if_cancelled()
    if loudest is not None:
        mono = _mono(data, Mono(max_seconds, loudest))
    return mono.pieces


def _mono(data: bytes, mono: Mono) -> Mono:
    """Read all of a file into `mono`, and return it."""
    failure = BadAudio("audio holds no samples")
    for file in files_in(data):
        try:
            for block, rate in _blocks(mended(file)):
                mono.add(block, rate)
        except BadAudio as error:
            failure = error
    mono.finish()
    # Of a damaged file, the part that could be read is used. It is an error only if there is none.
    if not mono.length:
        raise failure
    return mono


def _blocks(file: bytes) -> Iterator[tuple[Samples, int]]:
    """Samples, float32 [channels, n], and rate in Hz, of the first track that can be read."""
    if _PLAYLIST.match(file[:256]):
        raise BadAudio("audio cannot be decoded: this is a playlist or a text, not a recording")
    try:
        container = av.open(io.BytesIO(file), mode="r", options=_OPTIONS, metadata_errors="ignore")
    except (av.FFmpegError, ValueError) as error:
        raise BadAudio(
            "audio cannot be decoded: it is damaged, or not a sound file of a supported kind"
        ) from error
    with container:
        if not FORMATS.intersection(container.format.name.split(",")):
            raise BadAudio("audio cannot be decoded: files of this kind are not supported")
        track = _track_of(container)
        for stream in container.streams:
            if stream is not track:
                stream.discard = Discard.all
        # `_confine` forbids new threads.
        track.codec_context.thread_count = 1
        for frame in _frames(container, track):
            yield _samples(frame), frame.sample_rate


def _track_of(container: Any) -> Any:
    for stream in container.streams.audio:
        if stream.codec_context is not None and stream.codec_context.codec.name in CODECS:
            return stream
    if container.streams.audio:
        raise BadAudio("audio cannot be decoded: its codec is not supported")
    raise BadAudio("the file has no sound: there is no audio track in it")


def _frames(container: Any, track: Any) -> Iterator[Any]:
    """Frames up to the end of the file, or to the point after which nothing can be read."""
    failures = 0
    packets = container.demux(track)
    while failures < MOST_FAILURES:
        try:
            # The last packet is None: it makes the decoder return the frames it still holds.
            packet = next(packets, None)
        except av.FFmpegError:
            # The file ends too early. Its frames so far are still wanted.
            packet = None
        try:
            yield from track.codec_context.decode(packet)
            failures = 0
        except EOFError:
            return
        except av.FFmpegError:
            failures += 1
        if packet is None:
            return


def _samples(frame: Any) -> Samples:
    name = frame.format.name.removesuffix("p")
    if name not in _DTYPES:
        raise BadAudio("audio cannot be decoded: the format of its samples is not supported")
    count, channels = frame.samples, frame.layout.nb_channels
    dtype = np.dtype(_DTYPES[name])
    if frame.format.is_planar:
        planes = [np.frombuffer(plane, dtype, count) for plane in frame.planes[:channels]]
        samples = np.stack(planes).astype(np.float32)
    else:
        packed = np.frombuffer(frame.planes[0], dtype, count * channels)
        samples = packed.reshape(count, channels).T.astype(np.float32, order="C")
    if name in ("flt", "dbl"):
        if not np.isfinite(samples).all():
            raise BadAudio("audio has samples that are infinite or not numbers")
        # Float samples may exceed full scale, but all later code relies on the range -1 to 1.
        return samples.clip(-1.0, 1.0)
    if name == "u8":
        samples -= 128
    samples /= _FULL_SCALE[name]
    return samples
