"""Writes the small tekken tokenizer: the first entries of the one that mistral-common ships."""

import json
from pathlib import Path
from typing import Protocol

import mistral_common

BPE_TOKENS = 1250
SPECIAL_TOKENS = 36
VOCABULARY = BPE_TOKENS + SPECIAL_TOKENS
_FIRST_NAMES = (
    "<unk> <s> </s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] "
    "[/TOOL_RESULTS] [TOOL_CALLS] [IMG] <pad> [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] "
    "[SUFFIX] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT]"
).split()
_NAMED = dict(enumerate(_FIRST_NAMES)) | {24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 34: "[TRANSCRIBE]"}
BOS, EOS, INST, END_INST, PAD, SYSTEM, END_SYSTEM = 1, 2, 3, 4, 11, 17, 18
TOOLS, END_TOOLS, RESULTS, END_RESULTS, CALLS, CONTENT = 5, 6, 7, 8, 9, 19
AUDIO, BEGIN_AUDIO, TRANSCRIBE = 24, 25, 34


class Tokenizer(Protocol):
    """What is used of mistral-common's Tekkenizer."""

    def encode(self, s: str, bos: bool, eos: bool) -> list[int]:
        """Ids of a text; control strings in it are plain text."""


def write_tokenizer(
    folder: Path, bpe_tokens: int = BPE_TOKENS, special_tokens: int = SPECIAL_TOKENS
) -> None:
    """Write `tekken.json`, version v7 with an audio section, as the released model has it."""
    source = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"
    full = json.loads(source.read_text())
    small = {
        "config": {
            **full["config"],
            "num_vocab_tokens": bpe_tokens,
            "default_vocab_size": bpe_tokens + special_tokens,
            "default_num_special_tokens": special_tokens,
            "version": "v7",
        },
        "vocab": full["vocab"][:bpe_tokens],
        "special_tokens": [
            {"rank": i, "token_str": _NAMED.get(i, f"<SPECIAL_{i}>"), "is_control": True}
            for i in range(special_tokens)
        ],
        "audio": {
            "sampling_rate": 16000,
            "frame_rate": 12.5,
            "audio_encoding_config": {
                "num_mel_bins": 80,
                "hop_length": 160,
                "window_size": 400,
            },
            "chunk_length_s": 30.0,
        },
    }
    (folder / "tekken.json").write_text(json.dumps(small, indent=1))
