"""RunPod's job API on loopback, and the worker as a process that takes its jobs from there."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.ports import free_port
from voxtral_worker.settings import REPOSITORY


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        # A worker that was killed hangs up in the middle of a question.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class FakeJobApi:
    """Hands out jobs, and keeps what is posted; `poll_s` is how long a question stays open."""

    def __init__(self, poll_s: float = 0.2) -> None:
        self.poll_s = poll_s
        # What questions for jobs are answered with instead; 0 cuts the line.
        self.failing: int | None = None
        self.failures = 0
        self.jobs: list[dict[str, Any]] = []
        # Inputs of jobs that are handed out without end, one after the other.
        self.endless: tuple[dict[str, Any], ...] = ()
        self.stops: list[str] = []
        self._made = 0
        self.taken: list[str] = []
        self.streamed: dict[str, list[Any]] = {}
        self.done: dict[str, list[Any]] = {}
        self.pings: list[str] = []
        self.changed = threading.Condition()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def environment(self) -> dict[str, str]:
        """What makes a worker take its jobs from here."""
        base = f"http://127.0.0.1:{self.port}/v2/ep"
        return {
            "RUNPOD_POD_ID": "pod-test",
            "RUNPOD_AI_API_KEY": "x",
            "RUNPOD_PING_INTERVAL": "1000",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/pod-test?gpu=F",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=F",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=F",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID?gpu=F",
        }

    def close(self) -> None:
        with self.changed:
            self.poll_s = 0.0
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def give(self, job_id: str, **fields: Any) -> None:
        with self.changed:
            self.jobs.append({"id": job_id, "input": fields})
            self.changed.notify_all()

    def give_without_end(self, inputs: tuple[dict[str, Any], ...]) -> None:
        """Hand out jobs of these inputs from now on; empty: no jobs."""
        with self.changed:
            self.endless = inputs
            self.changed.notify_all()

    def outcomes(self, timeout_s: float) -> Counter[str]:
        """How the jobs that were handed out have ended: `done`, or the code of their error.

        Waits for those that are open; then forgets them all.
        """
        with self.changed:
            are_done = self.changed.wait_for(lambda: self.done.keys() >= {*self.taken}, timeout_s)
            errors = [posted.get("error") for (posted, *_) in self.done.values()]
            self.taken.clear()
            self.done.clear()
            self.streamed.clear()
        ended = Counter("done" if error is None else _code_of(error) for error in errors)
        return ended if are_done else ended + Counter(["no answer"])

    def stop(self, job_id: str) -> None:
        with self.changed:
            self.stops.append(job_id)
            self.changed.notify_all()

    def wait(self, holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
        with self.changed:
            assert self.changed.wait_for(holds, timeout_s), "what was awaited did not happen"

    def result(self, job_id: str) -> Any:
        """What the job was answered with, once it is; each job is answered once."""
        self.wait(lambda: job_id in self.done)
        assert len(self.done[job_id]) == 1
        return self.done[job_id][0]

    def _take(self, path: str) -> Any:
        """What a question gets after its wait, or None."""
        with self.changed:
            if "/job-stop/" in path:
                self.changed.wait_for(lambda: bool(self.stops), self.poll_s)
                stops, self.stops = self.stops, []
                return {"jobsToStop": stops} if stops else None
            if "/ping/" in path:
                self.pings.append(path)
                self.changed.notify_all()
                return {}
            self.changed.wait_for(lambda: bool(self.jobs or self.endless), self.poll_s)
            if self.endless and not self.jobs:
                self._made += 1
                chosen = self.endless[self._made % len(self.endless)]
                self.jobs.append({"id": f"job-{self._made}", "input": chosen})
            is_batch = "/job-take-batch/" in path
            asked = parse_qs(urlsplit(path).query).get("batch_size", ["1"])
            size = int(asked[0]) if is_batch else 1
            jobs, self.jobs = self.jobs[:size], self.jobs[size:]
            self.taken += [job["id"] for job in jobs]
            self.changed.notify_all()
            return (jobs if is_batch else jobs[0]) if jobs else None

    def _failure(self, path: str) -> int | None:
        """The status of a question for jobs that is to fail."""
        with self.changed:
            if self.failing is None or "/job-take" not in path:
                return None
            self.failures += 1
            self.changed.notify_all()
            return self.failing

    def _post(self, path: str, body: Any) -> None:
        *_, kind, _, job_id = urlsplit(path).path.split("/")
        with self.changed:
            kept = self.streamed if kind == "job-stream" else self.done
            kept.setdefault(job_id, []).append(body)
            self.changed.notify_all()

    def _handler(api) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - the handler has its own self
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status = api._failure(self.path)
                if status is None:
                    self.answer(api._take(self.path))
                elif status:
                    self.send_error(status)
                else:
                    self.close_connection = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                api._post(self.path, json.loads(body))
                self.answer({})

            def answer(self, value: Any) -> None:
                data = b"" if value is None else json.dumps(value).encode()
                try:
                    self.send_response(204 if value is None else 200)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except ConnectionError:
                    pass  # the worker has hung up

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _code_of(error: object) -> str:
    """The code at the end of an error, as in `too long (BAD_INPUT)`."""
    return str(error).rpartition("(")[2].rstrip(")")


class WorkerProcess:
    """`python handler.py` in a process group of its own, with its log in a file."""

    def __init__(
        self,
        log: Path,
        arguments: tuple[str, ...] = (),
        *,
        script: Path = REPOSITORY / "handler.py",
        **environment: str,
    ) -> None:
        self.port = free_port()
        self._log = log
        kept = {k: os.environ[k] for k in ("PATH", "HOME", "TMPDIR") if k in os.environ}
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-u", str(script), *arguments],
                cwd=log.parent,
                env={
                    **kept,
                    "HOST": "127.0.0.1",
                    "PORT": str(self.port),
                    "DEVICE": "cpu",
                    "MODEL_ID": str(REPOSITORY / "models" / "voxtral-tiny"),
                    "OMP_NUM_THREADS": "1",
                    **environment,
                },
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @classmethod
    def on_queue(
        cls,
        api: FakeJobApi,
        log: Path,
        script: Path = REPOSITORY / "handler.py",
        **environment: str,
    ) -> "WorkerProcess":
        """A queue worker of the given API."""
        return cls(log, (), script=script, **api.environment, **environment)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def get(self, path: str) -> str:
        """What the streaming server answers."""
        address = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return str(answer.read().decode())

    def figure(self, name: str) -> float:
        """The value of a metric, with its labels as they are written."""
        (line,) = [one for one in self.get("/metrics").splitlines() if one.startswith(f"{name} ")]
        return float(line.split()[-1])

    def until(self, holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Wait for what the worker itself can report."""
        deadline_s = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < deadline_s, self.get("/metrics")
            time.sleep(0.05)

    def is_idle(self) -> bool:
        """Whether the engine holds no work, no sequence a block, and no caller a session."""
        kept, free, total = (
            self.figure(f'voxtral_kv_blocks{{state="{state}"}}')
            for state in ("kept", "free", "total")
        )
        work = (self.figure(f"voxtral_generations_{state}") for state in ("running", "waiting"))
        sessions = self.figure("voxtral_sessions_active")
        return not any(work) and kept + free == total and sessions == 0

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout_s: float) -> int:
        return self._process.wait(timeout_s)

    def group(self) -> list[int]:
        """Processes of the group that still live, zombies aside."""
        alive = []
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, group = entry.read_text().rpartition(")")[2].split()[:3]
            except (OSError, ValueError):
                continue
            if int(group) == self._process.pid and state != "Z":
                alive.append(int(entry.parent.name))
        return alive

    def left_behind(self, timeout_s: float = 5.0) -> list[int]:
        """Processes of the group that are still there after a while.

        Python's resource tracker goes when it notices that its parent has gone.
        """
        deadline_s = time.monotonic() + timeout_s
        while (alive := self.group()) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        return alive

    def until_log_has(self, text: str, timeout_s: float = 60.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while text not in self.log:
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline_s, self.log
            time.sleep(0.05)

    def kill(self) -> None:
        """End what is left of the group."""
        for pid in self.group():
            os.kill(pid, signal.SIGKILL)
        self._process.wait(5)
