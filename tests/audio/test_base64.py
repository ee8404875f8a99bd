"""Base64 as people's programs write it."""

import base64
import textwrap
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtral_worker.audio.recordings import from_base64, is_data_address
from voxtral_worker.errors import BadInput

some_bytes = st.binary(min_size=1, max_size=200)


@given(data=some_bytes, width=st.integers(1, 80), between=st.sampled_from(["\n", "\r\n", " \t"]))
def test_white_space_counts_for_nothing(data: bytes, width: int, between: str) -> None:
    lines = textwrap.wrap(base64.b64encode(data).decode(), width)
    assert from_base64(between + between.join(lines) + between) == data


@given(data=some_bytes)
def test_both_alphabets_are_read_with_and_without_padding(data: bytes) -> None:
    for written in (base64.b64encode(data), base64.urlsafe_b64encode(data)):
        assert from_base64(written.decode()) == data
        assert from_base64(written.decode().rstrip("=")) == data
        assert from_base64(written.decode() + "==\n") == data


@given(
    data=some_bytes,
    head=st.sampled_from(
        [
            "data:audio/wav;base64,",
            "data:;base64,",
            "DATA:Audio/X-WAV;BASE64,",
            "data:audio/webm;codecs=opus;base64,",
            'data:audio/ogg; codecs="opus"; base64 ,',
            " data:video/mp4;base64,",
        ]
    ),
    is_escaped=st.booleans(),
)
def test_a_data_address_is_its_bytes(data: bytes, head: str, is_escaped: bool) -> None:
    written = base64.b64encode(data).decode()
    address = head + (quote(written, safe="") if is_escaped else written)
    assert is_data_address(address)
    assert from_base64(address) == data


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "nothing in it"),
        (" \n", "nothing in it"),
        ("====", "nothing in it"),
        ("QUJD*", r"has '\*' in it"),
        ("QUJDé", r"has '\?' in it"),
        ("https://example.com/a.wav", r"has ':' in it"),
        ("QUI=QUI=", "has '=' in the middle"),
        ("QUJDR", "cut off"),
        ("data:audio/wav;base64", "no comma"),
        ("data:audio/wav,QUJD", "not in base64"),
        ("data:audio/wav;base64,%", "has '%' in it"),
        ("data:audio/wav;base64,", "nothing in it"),
    ],
)
def test_what_is_no_base64_is_told_why(text: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        from_base64(text)
