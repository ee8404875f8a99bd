"""What may be fetched, and what not."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from voxtral_worker.errors import BadInput, TooLarge
from voxtral_worker.jobs import fetch as fetching
from voxtral_worker.jobs.fetch import fetch

NEVER = threading.Event()


class Site(BaseHTTPRequestHandler):
    """A file, a page that is not there, a redirect, and a file without end."""

    def do_GET(self) -> None:
        if self.path == "/file":
            self._answer(200, b"sound")
        elif self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(bytes(1 << 20))
            except ConnectionError:
                pass
        elif self.path == "/trickle":
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"x")
                    time.sleep(0.1)
            except ConnectionError:
                pass
        elif self.path == "/trickling-headers":
            try:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                while True:
                    self.wfile.write(b"x")
                    time.sleep(0.1)
            except ConnectionError:
                pass
        elif self.path == "/round":
            self.send_response(302)
            self.send_header("Location", "/round")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/once":
            self.send_response(307)
            self.send_header("Location", "file")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/headers":
            self._answer(200, str(self.headers).encode())
        elif self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"x")
        elif self.path == "/encodings":
            self._answer(200, (self.headers["Accept-Encoding"] or "").encode())
        else:
            self._answer(404, b"")

    def _answer(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's own switch for workers that fetch from their own network."""
    monkeypatch.setenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "true")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/a.wav",
        "http://localhost:1/a.wav",
        "http://[::1]:1/a.wav",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/a.wav",
        "http://[::ffff:192.168.0.1]/a.wav",
        "http://0.0.0.0:1/a.wav",
        "http://2130706433:1/a.wav",
        "http://[2002:a9fe:a9fe::1]/a.wav",
        "http://[fec0::1]/a.wav",
        "http://192.88.99.1/a.wav",
        "http://[64:ff9b::a00:1]/a.wav",
        "http://[fe80::1%25lo]/a.wav",
        "ftp://example.com/a.wav",
        "a.wav",
        "http:///a.wav",
        f"http://{'a' * 70}.invalid/a.wav",
    ],
)
def test_an_address_that_is_not_public_is_not_asked(url: str) -> None:
    with pytest.raises(BadInput, match="^the address (is not a public one|cannot be fetched)") as e:
        fetch(url, NEVER)
    assert "127.0.0.1" not in e.value.message


@pytest.mark.usefixtures("trusting")
def test_a_file_is_fetched_whole(site: str) -> None:
    assert fetch(f"{site}/file", NEVER) == b"sound"


@pytest.mark.usefixtures("trusting")
def test_a_page_that_is_not_there_is_told_with_its_status(site: str) -> None:
    with pytest.raises(BadInput, match="status 404"):
        fetch(f"{site}/missing", NEVER)


@pytest.mark.usefixtures("trusting")
def test_a_redirect_is_held_to_the_same_rules(site: str) -> None:
    with pytest.raises(BadInput, match="not a public one"):
        fetch(f"{site}/away", NEVER)


@pytest.mark.usefixtures("trusting")
def test_a_file_without_end_is_cut_off(site: str) -> None:
    with pytest.raises(TooLarge, match=f"larger than {fetching.MAX_BYTES >> 20} MiB"):
        fetch(f"{site}/endless", NEVER)


@pytest.mark.usefixtures("trusting")
def test_a_fetch_that_nobody_waits_for_gives_up(site: str) -> None:
    over = threading.Event()
    over.set()
    with pytest.raises(BadInput, match="did not come within"):
        fetch(f"{site}/endless", over)


@pytest.mark.usefixtures("trusting")
def test_nobody_there_is_told_without_details() -> None:
    with pytest.raises(BadInput, match="^the address cannot be fetched$"):
        fetch("http://127.0.0.1:1/a.wav", NEVER)


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("path", ["trickle", "trickling-headers"])
def test_what_trickles_in_is_given_up_at_the_deadline(
    site: str, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(fetching, "MAX_SECONDS", 0.5)
    began_s = time.monotonic()
    with pytest.raises(BadInput, match="did not come within"):
        fetch(f"{site}/{path}", NEVER)
    # Far less than such an answer may take: 8,190 bytes a line, one every tenth of a second.
    assert time.monotonic() - began_s < 60


@pytest.mark.usefixtures("trusting")
def test_a_redirect_is_followed_but_not_for_ever(site: str) -> None:
    assert fetch(f"{site}/once", NEVER) == b"sound"
    with pytest.raises(BadInput, match="leads on more than 5 times"):
        fetch(f"{site}/round", NEVER)


@pytest.mark.usefixtures("trusting")
def test_a_name_is_resolved_once_and_that_address_is_asked(
    site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(site.rpartition(":")[2])
    asked: list[str] = []

    def resolve(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "192.0.2.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert fetch(f"http://sounds.example:{port}/file", NEVER) == b"sound"
    assert asked == ["sounds.example"]


@pytest.mark.usefixtures("trusting")
def test_what_the_image_holds_for_other_hosts_is_not_sent(
    site: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secrets = tmp_path / "netrc"
    secrets.write_text("machine 127.0.0.1 login me password opensesame\n")
    monkeypatch.setenv("NETRC", str(secrets))
    assert b"Authorization" not in fetch(f"{site}/headers", NEVER)


@pytest.mark.usefixtures("trusting")
def test_a_file_that_ends_early_is_not_taken(site: str) -> None:
    with pytest.raises(BadInput, match="cannot be fetched"):
        fetch(f"{site}/short", NEVER)


@pytest.mark.usefixtures("trusting")
def test_no_file_is_asked_for_in_a_compressed_form(site: str) -> None:
    assert fetch(f"{site}/encodings", NEVER) == b"identity"
