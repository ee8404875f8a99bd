"""A stopwatch: from nothing to the first right answer, as a newcomer would get there.

    python bench/first_answer.py clone FOLDER     # git clone, make run
    python bench/first_answer.py wheel FOLDER     # pip install the wheel, voxtral serve
    python bench/first_answer.py client FOLDER    # pip install the wheel alone, voxtral --help
    python bench/first_answer.py image FOLDER     # what the Dockerfile runs, in a bare folder

FOLDER must not be there yet. pip starts with an empty cache there and reads no settings but those
of its environment. Nothing but Python is needed, so that the measuring itself installs nothing.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CLIP = Path("clips", "turn-on-the-kitchen-light.wav")
SAID = "You said: Turn on the kitchen light."
JOB = {"input": {"type": "text", "text": "hello", "temperature": 0}}
ANSWER = "Hello! How can I help you?"
READY = "Console: "
LIMIT_S = 3600.0
UNITS = {"bytes": 1, "kB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000}
# pip's words for a file that it takes: fetched now, fetched before, or lying on a disk.
TAKEN = re.compile(
    r"^\s*(?:Downloading|Using cached) \S+ \(([\d.]+) (bytes|kB|MB|GB)\)", re.MULTILINE
)
FROM_DISK = re.compile(r"^Processing (/\S+\.whl)", re.MULTILINE)


def fetched_bytes(output: str) -> int:
    """What pip fetched, by its own words, rounded as it rounds."""
    sizes = [float(number) * UNITS[unit] for number, unit in TAKEN.findall(output)]
    # The package under test comes from a folder here, and would be fetched elsewhere.
    return round(sum(sizes)) + sum(Path(path).stat().st_size for path in FROM_DISK.findall(output))


def disk_bytes(folder: Path) -> int:
    """What the files in a folder take, links not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


@dataclass
class Watch:
    """Runs the commands of one way, and remembers how long each took and what pip fetched."""

    way: str
    folder: Path
    commands: list[str] = field(default_factory=list)
    fetched: int = 0
    install_s: float = 0.0
    start_s: float = 0.0
    answer_s: float = 0.0

    def environment(self) -> dict[str, str]:
        """That of a person who has set nothing; a free port, as others may use the usual one."""
        kept = {name: value for name, value in os.environ.items() if name not in HIDDEN}
        return {
            **kept,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_CACHE_DIR": str(self.folder / "cache"),
            "PIP_PROGRESS_BAR": "off",
            "HOST": "127.0.0.1",
            "PORT": str(PORT),
            "VOXTRAL_URL": f"http://127.0.0.1:{PORT}",
        }

    def run(self, command: str, folder: Path, **variables: str) -> str:
        """One command that ends, as part of the installation. Returns what it said."""
        self.commands.append(command)
        started_s = time.monotonic()
        output = self._call(command, folder, variables)
        self.install_s += time.monotonic() - started_s
        self.fetched += fetched_bytes(output)
        return output

    def ask(self, command: str, folder: Path, expected: str, **variables: str) -> None:
        """The command whose answer is waited for. Raises RuntimeError for another answer."""
        self.commands.append(command)
        started_s = time.monotonic()
        output = self._call(command, folder, variables)
        self.answer_s += time.monotonic() - started_s
        if expected not in output:
            raise RuntimeError(f"{command} did not answer {expected!r}: {output[-2000:]}")

    def serve(self, command: str, folder: Path) -> "subprocess.Popen[bytes]":
        """A command that serves; what it says before the worker starts counts as installation.

        Raises RuntimeError when it ends, or is not ready in time.
        """
        self.commands.append(command)
        log = self.folder / "served.txt"
        started_s = time.monotonic()
        with log.open("wb") as out:
            process = subprocess.Popen(
                shlex.split(command),
                cwd=folder,
                env=self.environment(),
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        began_s = started_s
        while READY not in (output := log.read_text("utf-8", "replace")):
            elapsed_s = time.monotonic() - started_s
            if "listening" not in output:
                began_s = started_s + elapsed_s
            if process.poll() is not None or elapsed_s > LIMIT_S:
                raise RuntimeError(f"{command} is not ready: {output[-2000:]}")
            time.sleep(0.1)
        self.install_s += began_s - started_s
        self.start_s += time.monotonic() - began_s
        self.fetched += fetched_bytes(output)
        return process

    def _call(self, command: str, folder: Path, variables: dict[str, str]) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env={**self.environment(), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stdout[-2000:]}")
        return done.stdout

    def row(self, disk: int) -> str:
        """The line of the table."""
        total_s = self.install_s + self.start_s + self.answer_s
        seconds = (self.install_s, self.start_s, self.answer_s, total_s)
        cells = [
            self.way,
            str(len(self.commands)),
            f"{self.fetched / 1e6:,.0f}",
            f"{disk / 1e6:,.0f}",
        ]
        return "| " + " | ".join([*cells, *(f"{value:.0f}" for value in seconds)]) + " |"


HIDDEN = {"PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT", "PYTHONPATH", "VIRTUAL_ENV"}
HEAD = """\
| way | commands | MB fetched | MB on disk | install s | start s | answer s | in all s |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


PORT = free_port()


def clone(watch: Watch) -> Path:
    """A bare clone and `make run`, then a spoken sentence."""
    watch.run(f"git clone --quiet {shlex.quote(str(ROOT))} voxtral-worker", watch.folder)
    checkout = watch.folder / "voxtral-worker"
    process = watch.serve(f"make run PYTHON={sys.executable}", checkout)
    speak(watch, process, checkout / ".venv" / "bin", Path("models", "voxtral-tiny"), checkout)
    return checkout / ".venv"


def wheel(watch: Watch) -> Path:
    """The wheel with the server in an empty environment, then a spoken sentence."""
    environment = install(watch, "[worker]")
    process = watch.serve("environment/bin/voxtral serve", watch.folder)
    [package] = environment.glob("lib/*/site-packages/voxtral_worker")
    speak(watch, process, environment / "bin", package / "voxtral-tiny", watch.folder)
    return environment


def client(watch: Watch) -> Path:
    """The wheel alone: client and command, which need a worker elsewhere to answer."""
    environment = install(watch, "")
    watch.ask("environment/bin/voxtral --help", watch.folder, "usage: voxtral")
    return environment


def install(watch: Watch, extra: str) -> Path:
    """The wheel of the last commit in an environment of its own; the building does not count."""
    source = watch.folder / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    subprocess.run([*build, str(watch.folder), str(source)], check=True)
    [built] = watch.folder.glob("voxtral_worker-*.whl")
    watch.run(f"{sys.executable} -m venv environment", watch.folder)
    wanted = shlex.quote(f"{built}{extra}")
    watch.run(f"environment/bin/pip install {wanted}", watch.folder)
    return watch.folder / "environment"


def speak(
    watch: Watch, process: "subprocess.Popen[bytes]", programs: Path, model: Path, folder: Path
) -> None:
    """Have a bundled clip answered by the worker that is served, and stop it."""
    try:
        watch.ask(f"{programs}/voxtral send {model / CLIP} --fast", folder, SAID)
    finally:
        # As Ctrl-C does: to all that make has started.
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)


def image(watch: Watch) -> Path:
    """The Dockerfile's own commands behind its base image, in a folder; then its first job."""
    app, environment = watch.folder / "app", watch.folder / "venv"
    for name in ("handler.py", "test_input.json", "models", "src", "builder"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        app.mkdir(exist_ok=True)
        copy(source, app / name)
    variables = {
        "PATH": f"{environment}/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(app / "src"),
        "TRITON_CACHE_DIR": str(watch.folder / "kernels"),
    }
    watch.run(f"{sys.executable} -m venv {environment}", app)
    for command in image_commands((ROOT / "Dockerfile").read_text("utf-8")):
        watch.run(command, app, **variables)
    job = shlex.quote(json.dumps(JOB))
    variables |= {"DEVICE": "cpu", "MODEL_ID": str(app / "models" / "voxtral-tiny")}
    watch.ask(f"python handler.py --test_input {job}", app, ANSWER, **variables)
    return environment


def image_commands(dockerfile: str) -> list[str]:
    """The commands that install the packages and compile the code, for the image with CUDA."""
    lines = stages(dockerfile, "cuda")
    runs = [re.sub(r"^RUN(?: +--mount=\S+)* +", "", line) for line in lines if line[:4] == "RUN "]
    return [run for run in runs if run.startswith(("pip install", "python -m compileall"))]


def stages(dockerfile: str, kind: str) -> list[str]:
    """The Dockerfile's instructions for one KIND: those of its base, then those of all images."""
    head, *rest = re.split(r"^(?=FROM )", dockerfile.replace("\\\n", " "), flags=re.MULTILINE)
    firsts = {part.splitlines()[0]: part for part in rest}
    base = [part for first, part in firsts.items() if first.endswith(f" AS base-{kind}")]
    last = [part for first, part in firsts.items() if " AS " not in first]
    return [line for part in (head, *base, *last) for line in part.splitlines()]


def main(words: list[str]) -> None:
    """Measure one way, and print its row."""
    if len(words) != 2 or words[0] not in WAYS:
        sys.exit(f"usage: python bench/first_answer.py {'|'.join(WAYS)} FOLDER")
    folder = Path(words[1]).resolve()
    folder.mkdir(parents=True)
    watch = Watch(words[0], folder)
    installed = WAYS[words[0]](watch)
    print(f"{HEAD}\n{watch.row(disk_bytes(installed))}\n", flush=True)
    print("\n".join(f"- `{command}`" for command in watch.commands))


WAYS = {"clone": clone, "wheel": wheel, "client": client, "image": image}

if __name__ == "__main__":
    main(sys.argv[1:])
