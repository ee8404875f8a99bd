"""A copy of RunPod's job API on loopback, which gives the jobs of an attack to a queue worker."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

POLL_S = 0.2
POD = "pod-guard"


class JobApi:
    """Hands out jobs without end while it has some to choose from, and counts their results."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._jobs: tuple[dict[str, Any], ...] = ()
        self._under_way: set[str] = set()
        self._given = 0

    def give(self, jobs: tuple[dict[str, Any], ...]) -> None:
        """Hand out these jobs from now on, one after the other; empty: no jobs."""
        with self._changed:
            self._jobs = jobs
            self._changed.notify_all()

    def wait_until_done(self, timeout_s: float) -> bool:
        """Wait for the results of all jobs handed out. False: they did not come in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._under_way, timeout_s)

    def take(self) -> dict[str, Any] | None:
        """The next job; None: there was none for a while."""
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._jobs), POLL_S):
                return None
            self._given += 1
            job_id = f"job-{self._given}"
            self._under_way.add(job_id)
            return {"id": job_id, "input": self._jobs[self._given % len(self._jobs)]}

    def done(self, job_id: str, answer: dict[str, Any]) -> None:
        """Take the result of a job."""
        error = answer.get("error")
        code = "done" if error is None else str(error).rpartition("(")[2].rstrip(")")
        with self._changed:
            self.answers[code] += 1
            self._under_way.discard(job_id)
            self._changed.notify_all()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore it: a worker that stops closes its connection in the middle of a request."""


@contextmanager
def job_api() -> Iterator[tuple[JobApi, dict[str, str]]]:
    """The API, and the environment of a worker that takes its jobs there."""
    api = JobApi()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if "/job-take/" in path:
                self._answer(api.take())
            elif "/job-take-batch/" in path:
                job = api.take()
                self._answer(None if job is None else [job])
            elif "/job-stop/" in path:
                threading.Event().wait(POLL_S)
                self._answer(None)
            else:
                self._answer({})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            *_, kind, _, job_id = urlsplit(self.path).path.split("/")
            if kind == "job-done":
                api.done(job_id, body)
            self._answer({})

        def _answer(self, value: Any) -> None:
            data = b"" if value is None else json.dumps(value).encode()
            self.send_response(204 if value is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Log nothing: there would be a line for every request."""

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    base = f"http://127.0.0.1:{server.server_address[1]}/v2/ep"
    try:
        yield (
            api,
            {
                "RUNPOD_POD_ID": POD,
                "RUNPOD_AI_API_KEY": "x",
                "RUNPOD_PING_INTERVAL": "1000",
                "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
                "RUNPOD_SKIP_GPU_CHECK": "true",
                "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/{POD}?gpu=F",
                "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=F",
                "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=F",
                "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID?gpu=F",
            },
        )
    finally:
        api.give(())
        server.shutdown()
        server.server_close()
        thread.join(5.0)
