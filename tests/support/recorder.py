"""Stands between a real client and the worker, and writes down what the client sends.

    python tests/support/recorder.py PORT WORKER_URL FILE

Audio is written down once a connection, as the marker `AUDIO`: what it says is not the client's.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import WSMsgType, web

AUDIO = "<audio>"


class Recorder:
    """Passes everything on, and keeps what came from the client."""

    def __init__(self, worker: str, file: Path) -> None:
        self._worker = worker
        self._file = file
        self.calls: list[dict[str, Any]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One call or socket."""
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._socket(request)
        body = await request.read()
        is_json = request.content_type == "application/json"
        call = {"method": request.method, "path": request.path_qs}
        self.calls.append({**call, "body": json.loads(body)} if is_json and body else call)
        self.keep()
        headers = {"Content-Type": request.headers.get("Content-Type", "application/json")}
        url = self._worker + request.path_qs
        async with (
            aiohttp.ClientSession() as http,
            http.request(request.method, url, data=body, headers=headers) as answer,
        ):
            data = await answer.read()
            return web.Response(body=data, status=answer.status, content_type=answer.content_type)

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        client = web.WebSocketResponse(protocols=("realtime",), max_msg_size=0)
        await client.prepare(request)
        call: dict[str, Any] = {"socket": request.path_qs, "events": []}
        self.calls.append(call)
        url = self._worker + request.path_qs
        async with aiohttp.ClientSession() as http, http.ws_connect(url, max_msg_size=0) as worker:

            async def back() -> None:
                async for frame in worker:
                    if frame.type is WSMsgType.TEXT:
                        await client.send_str(frame.data)
                await client.close()

            task = asyncio.create_task(back())
            async for frame in client:
                if frame.type is WSMsgType.TEXT:
                    self._note(call["events"], json.loads(frame.data))
                    await worker.send_str(frame.data)
            task.cancel()
        return client

    def _note(self, events: list[Any], event: dict[str, Any]) -> None:
        if event.get("type") == "input_audio_buffer.append":
            event = {**event, "audio": AUDIO}
            if any(seen.get("type") == event["type"] for seen in events):
                return
        events.append(event)
        self.keep()

    def keep(self) -> None:
        """Write down what came so far."""
        self._file.write_text(json.dumps(self.calls, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    """Serve until killed."""
    port, worker, file = sys.argv[1:]
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", Recorder(worker, Path(file)).handle)
    web.run_app(app, host="127.0.0.1", port=int(port), print=None)


if __name__ == "__main__":
    main()
