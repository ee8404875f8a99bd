"""What attackers send: small to make, large or odd to read."""

import base64
import gzip
import io
import json
import struct
from typing import Any

import numpy as np
import soundfile

BOUNDARY = "attack"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
COMPRESSED = {"Content-Encoding": "gzip", "Content-Type": "application/json"}


def chat(model: str, messages: list[dict[str, Any]], **options: Any) -> bytes:
    """The body of a chat call."""
    return json.dumps({"model": model, "messages": messages, **options}).encode()


def long_talk(model: str, messages: int, characters: int) -> bytes:
    """A conversation of so many messages, each as long as the others."""
    text = ("word " * (characters // messages // 5 + 1))[: characters // messages]
    roles = ["user", "assistant"] * (messages // 2) + ["user"]
    return chat(model, [{"role": role, "content": text} for role in roles[: messages | 1]])


def many_parts(model: str, parts: int) -> bytes:
    """One message of so many texts, and a word that says it may hold audio."""
    content = [{"type": "text", "text": "a"}] * parts
    return chat(model, [{"role": "user", "content": content}], user="audio")


def dense_json(size: int) -> bytes:
    """JSON of nothing but small lists, with the word that lets it be large."""
    return b'{"audio":[' + b"[]," * (size // 3) + b"0]}"


def deep_json(depth: int) -> bytes:
    """Lists within lists."""
    return b'{"messages":' + b"[" * depth + b"]" * depth + b"}"


def zipped(data: bytes) -> bytes:
    """As a body with a Content-Encoding has it."""
    return gzip.compress(data)


def form(parts: int, size: int = 0) -> bytes:
    """A form of so many parts, each named `file`."""
    part = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    ).encode()
    return (part + b"x" * size + b"\r\n") * parts + f"--{BOUNDARY}--\r\n".encode()


def form_with(model: str, file: bytes) -> bytes:
    """A transcription's form."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="'
    field = f'{head}model"\r\n\r\n{model}\r\n'.encode()
    opening = f'{head}file"; filename="a"\r\n\r\n'.encode()
    return field + opening + file + f"\r\n--{BOUNDARY}--\r\n".encode()


def wav(samples: bytes, rate: int, *, claimed: int | None = None) -> bytes:
    """A mono file of 16-bit samples, whose header may claim another size in bytes."""
    size = len(samples) if claimed is None else claimed
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", min(36 + size, 2**32 - 1), b"WAVE", b"fmt ",
                       16, 1, 1, rate, 2 * rate, 2, 16)  # fmt: skip
    return head + struct.pack("<4sI", b"data", size) + samples


def silent_flac(seconds: int, rate: int, channels: int) -> bytes:
    """Silence that takes next to no bytes."""
    buffer = io.BytesIO()
    second = np.zeros((rate, channels), np.int16)
    with soundfile.SoundFile(buffer, "w", rate, channels, format="FLAC", subtype="PCM_16") as file:
        for _ in range(seconds):
            file.write(second)
    return buffer.getvalue()


def audio_chat(model: str, files: list[bytes]) -> bytes:
    """One message of so many recordings."""
    audio = [{"data": base64.b64encode(file).decode(), "format": "flac"} for file in files]
    content = [{"type": "input_audio", "input_audio": one} for one in audio]
    return chat(model, [{"role": "user", "content": content}])
