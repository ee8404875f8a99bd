"""The benchmark with other servers: the checkpoint in their format, and equal answers."""

import json
from pathlib import Path

import pytest
import torch
from openai import AsyncOpenAI
from safetensors.torch import load_file, save_file

from bench import peers
from tests.support.mistral_format import mistral_name, write_mistral_format
from voxtral_worker.engine.model import load_model
from voxtral_worker.settings import EMBEDDED_MODEL, Settings


def test_every_weight_has_a_place_in_the_other_format(tmp_path: Path) -> None:
    write_mistral_format(EMBEDDED_MODEL, tmp_path)
    before = load_file(EMBEDDED_MODEL / "model.safetensors")
    after = load_file(tmp_path / "consolidated.safetensors")
    del before["audio_tower.embed_positions.weight"]
    assert sorted(after) == sorted(map(mistral_name, before))
    rotary = ("layers.0.attention.wq.weight", "layers.0.attention.wk.weight")
    for name, weight in before.items():
        moved = after[mistral_name(name)]
        if mistral_name(name).endswith(("attention.wq.weight", "attention.wk.weight")):
            assert weight.shape == moved.shape
        else:
            assert torch.equal(weight, moved)
    heads = json.loads((EMBEDDED_MODEL / "config.json").read_text())["text_config"]["head_dim"]
    query = before["language_model.model.layers.0.self_attn.q_proj.weight"]
    # Of a head's pair of dimensions, the second lies half a head away in transformers' format.
    assert torch.equal(after[rotary[0]][0], query[0])
    assert torch.equal(after[rotary[0]][1], query[heads // 2])
    params = json.loads((tmp_path / "params.json").read_text())
    assert params["multimodal"]["whisper_model_args"]["downsample_args"]["downsample_factor"] == 4


def test_positions_that_were_learned_do_not_fit_into_the_other_format(tmp_path: Path) -> None:
    for name in ("config.json", "preprocessor_config.json", "tekken.json"):
        (tmp_path / name).write_bytes((EMBEDDED_MODEL / name).read_bytes())
    weights = load_file(EMBEDDED_MODEL / "model.safetensors")
    weights["audio_tower.embed_positions.weight"] += 1
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="positions"):
        write_mistral_format(tmp_path, tmp_path / "made")


async def test_generate_and_the_worker_are_asked_for_the_same(worker: str) -> None:
    settings = Settings(model_id=str(EMBEDDED_MODEL), device="cpu", dtype="float32")
    plain, requests = peers.Plain(load_model(settings)), peers.Requests()
    client = AsyncOpenAI(base_url=f"{worker}/v1", api_key="none")
    for is_audio in (True, False):
        group = requests.group(2, is_audio=is_audio)
        alone = await plain.answer(1, is_audio, group)
        served = await peers.by_http(client, is_audio, group)
        assert served.texts == alone.texts
        assert all(text.startswith("You said: ") for text in alone.texts)
        assert all(0 < first_s < served.whole_s for first_s in served.firsts_s)
        first = await plain.first_token(is_audio, group)
        assert all(map(str.startswith, alone.texts, first.texts))
    await client.close()


def test_where_vllm_does_not_install_the_benchmark_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Path:
        raise RuntimeError("no matching distribution")

    monkeypatch.setattr(peers, "install_vllm", fail)
    peers.run()
    assert "does not install here: no matching distribution" in capsys.readouterr().out
