"""The client's reference page names all that a caller can use."""

import inspect
import re

import pytest

from voxtral_worker import client
from voxtral_worker.client import Options, Voxtral, VoxtralClient
from voxtral_worker.settings import REPOSITORY

PAGE = (REPOSITORY / "docs" / "python-client.md").read_text("utf-8")
CODE = " ".join(re.findall(r"`([^`\n]+)`", PAGE))


def public(kind: type) -> list[str]:
    return [name for name in vars(kind) if not name.startswith("_")]


def is_method(name: str) -> bool:
    """Not a property."""
    return callable(getattr(VoxtralClient, name))


def test_both_clients_have_the_same_methods() -> None:
    assert sorted(public(Voxtral)) == sorted(public(VoxtralClient))


@pytest.mark.parametrize("name", [n for n in public(VoxtralClient) if is_method(n)])
def test_a_method_takes_the_same_with_and_without_asyncio(name: str) -> None:
    both = [inspect.signature(getattr(kind, name)) for kind in (Voxtral, VoxtralClient)]
    one, other = ([(each.name, each.default) for each in sig.parameters.values()] for sig in both)
    assert one == other


@pytest.mark.parametrize("name", public(VoxtralClient))
def test_a_method_stands_on_the_page(name: str) -> None:
    assert re.search(rf"\b{name}\b", CODE)


@pytest.mark.parametrize("name", sorted(set(client.__all__) - {"Event"}))
def test_a_name_of_the_package_stands_on_the_page(name: str) -> None:
    assert re.search(rf"\b{name}\b", CODE)


@pytest.mark.parametrize("option", sorted(Options.__optional_keys__))
def test_an_option_stands_in_the_protocol(option: str) -> None:
    protocol = (REPOSITORY / "docs" / "protocol.md").read_text("utf-8")
    assert f"\n| `{option}` |" in protocol
