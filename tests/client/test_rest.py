"""The client's REST calls: what becomes of a credential, and of an answer that cannot be used."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.support.ports import free_port
from voxtral_worker.client import VoxtralClient, VoxtralError
from voxtral_worker.client.rest import Rest


class Answering(HTTPServer):
    """A server that answers every call alike, and remembers the headers of each."""

    def __init__(self, status: int, location: str = "") -> None:
        seen: list[dict[str, str]] = []
        self.seen = seen

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append(dict(self.headers))
                self.send_response(status)
                if location:
                    self.send_header("Location", location)
                self.end_headers()
                self.wfile.write(b'{"status": "healthy"}')

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


Serve = Callable[..., Answering]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Answering] = []

    def start(status: int, location: str = "") -> Answering:
        servers.append(Answering(status, location))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


async def test_a_credential_is_not_carried_on_to_another_address(serve: Serve) -> None:
    stranger = serve(200)
    worker = serve(307, f"{stranger.url}/health")
    assert await Rest(worker.url, "a-key").health() == {"status": "healthy"}
    assert [headers.get("Authorization") for headers in worker.seen] == ["Bearer a-key"]
    assert [headers.get("Authorization") for headers in stranger.seen] == [None]


async def test_a_redirect_that_leads_in_a_circle_is_told(serve: Serve) -> None:
    worker = serve(302, "/health")
    with pytest.raises(VoxtralError, match="cannot be reached: .*redirect"):
        await Rest(worker.url, None).health()


async def test_an_answer_that_is_neither_good_nor_an_error_is_a_refusal(serve: Serve) -> None:
    worker = serve(304)
    with pytest.raises(VoxtralError, match="refused with status 304"):
        await Rest(worker.url, None).call("GET", "/session/x")


async def test_a_worker_that_is_not_there_may_be_there_later() -> None:
    with pytest.raises(VoxtralError, match="cannot be reached") as told:
        await Rest(f"http://127.0.0.1:{free_port()}", None).health()
    assert told.value.may_pass


@pytest.mark.parametrize("token", ["ké", "a\nb", "a\r\nX-API-Key: b", "\0"])
def test_a_credential_that_fits_in_no_header_is_told_before_it_is_sent(token: str) -> None:
    with pytest.raises(VoxtralError, match="token must be printable ASCII"):
        VoxtralClient("http://localhost:8000", token=token)
