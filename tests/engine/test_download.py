"""A hub on this machine that breaks off in the middle: the next start continues from there."""

import asyncio
import hashlib
import json
import logging
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from huggingface_hub import constants

from tests.test_checkpoint import make_checkpoint
from voxtral_worker.checkpoint import find_cached, is_whole
from voxtral_worker.engine.download import download, progress
from voxtral_worker.engine.model import fetched
from voxtral_worker.errors import LoadFailure

COMMIT = "c" * 40
# The hub's client writes 10 MB at a time: less would not be there to continue from.
WEIGHTS = bytes(range(256)) * (24 << 12)
FILES = {
    "config.json": json.dumps({"model_type": "voxtral"}).encode(),
    "preprocessor_config.json": b"{}",
    "tekken.json": b"{}",
    "model.safetensors": WEIGHTS,
    "consolidated.safetensors": b"the same weights in another layout",
}


class Hub:
    """Serves one model; the first answer with weights stops after `most` bytes."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.asked: list[tuple[str, str | None]] = []
        app = web.Application()
        app.router.add_get("/api/models/a/b", self.info)
        app.router.add_get("/api/models/a/b/revision/{revision}", self.info)
        app.router.add_get("/api/models/a/b/tree/{revision}", self.tree)
        app.router.add_get("/a/b/resolve/{revision}/{file}", self.file)
        self.server = TestServer(app, host="127.0.0.1")

    async def info(self, _: web.Request) -> web.Response:
        siblings = [{"rfilename": name, "size": len(data)} for name, data in FILES.items()]
        return web.json_response({"id": "a/b", "sha": COMMIT, "siblings": siblings})

    async def tree(self, _: web.Request) -> web.Response:
        files = [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in FILES.items()
        ]
        return web.json_response(files)

    async def file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["file"]
        data = FILES[name]
        headers = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(data))})
        wanted = request.headers.get("Range")
        self.asked.append((name, wanted))
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        response = web.StreamResponse(status=206 if wanted else 200, headers=headers)
        response.content_length = len(data) - start
        if wanted:
            response.headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        await response.prepare(request)
        most, self.most = (self.most, 0) if name == "model.safetensors" else (0, self.most)
        await response.write(data[start : start + most] if most else data[start:])
        if most and request.transport is not None:
            request.transport.close()
        return response


async def test_a_download_that_broke_off_is_resumed_and_then_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    hub = Hub(most=len(WEIGHTS) // 2)
    await hub.server.start_server()
    endpoint = str(hub.server.make_url("")).rstrip("/")
    noted: list[tuple[int, ...]] = []
    try:
        with caplog.at_level(logging.INFO):
            folder = await asyncio.to_thread(
                download, "a/b", None, endpoint=endpoint, note=lambda *bytes_: noted.append(bytes_)
            )
    finally:
        await hub.server.close()
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert is_whole(folder)
    assert find_cached("a/b", None, tmp_path) == folder
    assert not (folder / "consolidated.safetensors").exists()
    asked = [wanted for name, wanted in hub.asked if name == "model.safetensors"]
    assert asked[0] is None
    first = str(asked[-1]).removeprefix("bytes=").removesuffix("-")
    assert int(first) >= 10_000_000
    assert f"at commit {COMMIT}" in caplog.text
    assert "% of" in caplog.text
    total = sum(len(data) for name, data in FILES.items() if not name.startswith("consolidated"))
    # The first look comes before the weights are here.
    assert noted[0][0] < noted[-1][0] == total
    assert {all_ for _, all_ in noted} == {total}


def test_progress_is_told_in_percent_and_rate() -> None:
    assert progress(4_700_000_000, 9_400_000_000, 50e6) == "50 % of 9.40 GB, 50.0 MB a second"
    assert progress(10, 0, 0.0) == "? of 0.00 GB, 0.0 MB a second"


def test_a_model_that_is_there_is_served_without_a_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(LoadFailure, match="a/b"):
        fetched("a/b", None)
    snapshot = make_checkpoint(tmp_path / "models--a--b" / "snapshots" / COMMIT)
    assert fetched("a/b", None) == snapshot
