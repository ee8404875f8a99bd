"""What may be fetched, and what not."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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
