"""The check for GPUs runs from end to end, here on a CPU with a small shape."""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bench import gpu_check, gpu_peers, gpu_talk
from bench.gpu_check import PARTS, Part, _speed, check_tokens, run
from bench.gpu_peers import Took, check_peers, find_vllm, served
from bench.gpu_scale import TINY, load_random
from bench.gpu_talk import Crowd, Heard, check_long, check_talkers, for_seconds
from bench.token_times import Made
from bench.vllm_peer import Serving
from tests.support.mistral_format import write_mistral_format
from tests.support.triton_interpreter import interpreted
from voxtral_worker.engine.request import Finished, GenerationRequest, Timings, Usage
from voxtral_worker.settings import EMBEDDED_MODEL

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "random"
    load_random(TINY, folder)
    return folder


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    capsys.readouterr()
    yield capsys


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def row(text: str, begins: str) -> list[str]:
    """The cells of the table's line that begins with this one."""
    return next(c for line in text.splitlines() if (c := cells(line))[0] == begins)


def test_the_tokens_of_the_embedded_model_are_compared(
    light_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Its language model, behind an encoder that a CPU computes in no time.
    check_tokens(CPU, light_folder)
    assert capsys.readouterr().out.count("equal") == 6


def test_a_random_checkpoint_in_shards_is_loaded_and_measured(
    weights: Path, said: pytest.CaptureFixture[str]
) -> None:
    _speed(TINY, weights, compiles=True)
    text = said.readouterr().out
    assert int(text.split("loaded from ")[1].split()[0]) > 1
    for batch in TINY.batches:
        assert float(row(text, f"decode, batch {batch}, 2000 tokens each")[3]) > 0
        assert float(row(text, f"decode, temperature 0.2, batch {batch}, 2000 tokens each")[3]) > 0
    assert "| end of turn to first token, alone |" in text
    for batch in TINY.loops:
        assert int(row(text, f"batch {batch}")[1]) > 0
    assert "2 sequences of 1,880 tokens and 64 new ones" in text
    assert "memory: process at most" in text


def test_a_late_turn_and_a_long_file_beside_talkers_are_measured(
    weights: Path, said: pytest.CaptureFixture[str]
) -> None:
    check_long(TINY, weights)
    text = said.readouterr().out
    kept = row(text, "behind that context, kept in the cache")
    again = row(text, "behind that context, computed again")
    assert kept[1] == again[1]
    assert int(kept[2]) < int(again[2]) == int(again[1])
    assert "a question about 1.5 minutes (1137 tokens)" in text
    for name in ("alone again", "beside the file"):
        assert int(row(text, name)[1]) >= 1
    assert "its transcript, 64 tokens a window" in text


def test_talkers_are_doubled_until_the_limits(
    weights: Path, said: pytest.CaptureFixture[str]
) -> None:
    check_talkers(TINY, weights)
    text = said.readouterr().out
    assert [row(text, str(count))[7] for count in (1, 2)] == ["yes", "yes"]
    assert "most talkers within the limits, by doubling: 2, of 2" in text
    with pytest.raises(AssertionError, match="missed by 1 talkers"):
        check_talkers(replace(TINY, most_first_s=0.0), weights)
    text = said.readouterr().out
    assert row(text, "1")[7] == "no"
    assert "by doubling: none" in text


def test_a_crowd_in_which_somebody_got_nothing_is_not_within_the_limits() -> None:
    assert Heard([0.1], [0.01]).is_within(TINY)
    assert not Heard([0.1], [0.01], failures=["out of memory"]).is_within(TINY)
    assert not Heard([0.1], [0.01], unanswered=1).is_within(TINY)
    assert not Heard([0.1], [100.0]).is_within(TINY)
    assert not Heard().is_within(TINY)


class Deaf:
    """An engine that answers no request until it is asked to, and then only those given up."""

    def __init__(self) -> None:
        self.listeners: list[Any] = []

    def submit(self, request: GenerationRequest, listener: Any) -> Any:
        self.listeners.append(listener)
        return SimpleNamespace(cancel=lambda: None)

    def forget(self, owner: str) -> None:
        pass


def test_whoever_is_given_up_is_counted_and_not_heard_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu_talk, "PATIENCE_S", 0.05)
    deaf = Deaf()
    nobody = SimpleNamespace(of=lambda _: Made())
    crowd = Crowd(deaf, nobody, replace(TINY, turn_every_s=0.01))  # type: ignore[arg-type]
    assert crowd.talk(2, for_seconds(0.2)).unanswered == 2
    for listener in deaf.listeners:
        listener(Finished("interrupted", Usage(), Timings()))
    assert crowd.talk(0, for_seconds(0.05)) == Heard()


def test_generate_is_a_peer_where_vllm_is_not_installed(
    weights: Path, said: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_peers, "find_vllm", lambda: None)
    check_peers(TINY, weights)
    text = said.readouterr().out
    assert "vLLM: not measured" in text
    for kind in ("audio", "text"):
        for count in TINY.loops:
            figures = row(text, f"{kind} × {count}")
            assert len(figures) == 7
            assert all(float(figures[i]) > 0 for i in (1, 3, 5, 6))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured in this process is known already."""
    took = {(is_audio, n): Took(0.1, 1.0) for is_audio in (True, False) for n in TINY.loops}
    monkeypatch.setattr(
        gpu_peers, "_in_this_process", lambda *_: {"generate()": took, "engine": took}
    )


# Says three words to every call, in the place of vLLM's server.
FAKE_VLLM = """
import argparse, json
from aiohttp import web

parser = argparse.ArgumentParser()
for name in ("--port", "--model", "--served-model-name", "--gpu-memory-utilization"):
    parser.add_argument(name)
given, _ = parser.parse_known_args()

async def chat(request):
    body = await request.json()
    assert body["ignore_eos"] and body["model"] == given.served_model_name == "random", body
    assert given.gpu_memory_utilization
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for word in ("", "one", "two"):
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "random",
                 "choices": [{"index": 0, "delta": {"content": word}}]}
        await response.write(f"data: {json.dumps(chunk)}\\n\\n".encode())
    await response.write(b"data: [DONE]\\n\\n")
    return response

open(given.model + "/consolidated.safetensors").close()
app = web.Application(client_max_size=1 << 26)
app.router.add_get("/health", lambda _: web.Response())
app.router.add_post("/v1/chat/completions", chat)
web.run_app(app, host="127.0.0.1", port=int(given.port))
"""


@pytest.mark.usefixtures("measured")
def test_vllm_is_a_peer_where_it_is_installed(
    weights: Path,
    said: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    package = tmp_path / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text(FAKE_VLLM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("VLLM_PYTHON", sys.executable)
    assert find_vllm() == Path(sys.executable)
    check_peers(TINY, weights)
    text = said.readouterr().out
    assert "vLLM, over HTTP: tokens/s" in text
    assert len(row(text, "audio × 2")) == 11


@pytest.mark.usefixtures("measured")
def test_what_was_measured_is_shown_where_vllm_does_not_start(
    weights: Path, said: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_peers, "find_vllm", lambda: Path(sys.executable))
    with pytest.raises(RuntimeError, match="vllm"):
        check_peers(TINY, weights)
    assert row(said.readouterr().out, "text × 1")[0] == "text × 1"


def test_vllm_is_looked_for_where_it_may_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_peers, "HOME", tmp_path)
    monkeypatch.delenv("VLLM_PYTHON", raising=False)
    there = {"openai"}
    monkeypatch.setattr(
        "bench.gpu_peers.importlib.util.find_spec", lambda name: name if name in there else None
    )
    assert find_vllm() is None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    assert find_vllm() == tmp_path / "bin" / "python"
    there.add("vllm")
    assert find_vllm() == Path(sys.executable)
    there.remove("openai")
    assert find_vllm() is None


def test_calls_over_http_are_measured(worker: str) -> None:
    ask = served(worker, EMBEDDED_MODEL.name, {})
    for is_audio in (False, True):
        took = ask(2, is_audio)
        assert 0 < took.first_s <= took.whole_s


def test_vllm_gets_a_core_or_a_share_of_a_gpu() -> None:
    on_gpu = Serving(Path("m"), "m", "bfloat16", memory=0.5)
    on_core = Serving(Path("m"), "m", "float32", core=1)
    assert "--gpu-memory-utilization 0.5" in " ".join(on_gpu.arguments("m", 1))
    assert "VLLM_CPU_OMP_THREADS_BIND" not in on_gpu.environment()
    assert "--gpu-memory-utilization" not in on_core.arguments("m", 1)
    assert on_core.environment()["VLLM_CPU_OMP_THREADS_BIND"] == "1"


def test_shards_become_one_file_of_the_other_format(weights: Path, tmp_path: Path) -> None:
    write_mistral_format(weights, tmp_path)
    index = json.loads((weights / "model.safetensors.index.json").read_text())["weight_map"]
    # A program that loads the other format computes its positions.
    assert len(load_file(tmp_path / "consolidated.safetensors")) == len(index) - 1


@pytest.mark.parametrize("names", [[], ["tokens"], ["kernel", "speed"]])
def test_without_a_gpu_the_check_says_so(
    names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device: make gpu-check")
    assert run(names) == 0
    assert "skipped" in capsys.readouterr().out


def test_a_part_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(SystemExit, match="no part 'spede'; there are tokens, kernel, speed"):
        run(["tokens", "spede"])


def test_a_part_that_fails_is_told_and_the_others_go_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    no_folder = tmp_path / "file"
    no_folder.write_text("")
    arguments = ["--device", "cpu", "--weights", str(no_folder), "talkers", "kernel"]
    assert run(arguments) == 1
    text = capfd.readouterr().out
    assert "talkers: failed with status 1; the other parts go on" in text
    assert row(text, "talkers")[1] == "failed with status 1"
    assert row(text, "kernel")[1] == "ok"
    assert "gpu-check: failed: talkers" in text
    assert re.search(r"## kernel: on a CPU, torch \d", text)


def test_a_part_that_takes_too_long_is_stopped(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(gpu_check.PARTS, "kernel", Part(lambda scale, folder: None, 0.01))
    assert run(["--device", "cpu", "kernel"]) == 1
    assert row(capfd.readouterr().out, "kernel")[1] == "stopped after 0 s"


def test_every_part_ends_within_eight_minutes() -> None:
    assert all(part.most_s < 480 for part in PARTS.values())


def test_the_kernel_is_compared_with_gathered_attention() -> None:
    code = (
        "import torch; from bench.gpu_kernel import Heads, check_kernel;"
        "check_kernel(torch.device('cpu'), ((2, 70),), Heads(4, 1, 128), 1)"
    )
    line = row(interpreted(code), "2 × 70")
    assert float(line[1]) < 0.03
    assert len(line) == 7
