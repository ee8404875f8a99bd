"""Short forms of what `make bench-load` measures with a real engine, over real sockets."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from bench import load_dictation, load_sounds
from bench.load import realtime
from bench.load_bargein import SHAPE, interrupt
from bench.load_speakers import answers_in_real_time
from tests.support.ports import free_port
from tests.support.random_model import write_random_model
from tests.support.settings import changed
from tests.support.sounds import clips
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.model import LoadedModel, load_model
from voxtral_worker.server.lifecycle import Parts
from voxtral_worker.server.thread import ServerThread
from voxtral_worker.settings import EMBEDDED_MODEL, Settings
from voxtral_worker.turns.vad import Vad

SETTINGS = Settings(
    host="127.0.0.1",
    device="cpu",
    dtype="float32",
    response_cache_size=0,
    rate_limit_enabled=False,
    metrics_public=True,
)


@pytest.fixture
def serve() -> Iterator[Callable[[str, tuple[Settings, ...]], list[str]]]:
    """Starts servers, one for each settings, over one engine with the model of a folder."""
    stops: list[Callable[[], None]] = []

    def start(folder: str, wanted: tuple[Settings, ...]) -> list[str]:
        settings = changed(SETTINGS, model_id=folder)
        loaded: LoadedModel = load_model(settings)
        vad, engine = Vad(), Engine(EngineCore(loaded, settings))
        vad.start()
        engine.start()
        engine.warm_up()
        stops.extend([vad.stop, engine.stop])
        urls = []
        for one in wanted:
            port = free_port()
            server = ServerThread(changed(one, port=port, model_id=folder))
            server.start()
            server.become_ready(Parts(engine, vad, loaded))
            stops.append(server.stop)
            urls.append(f"http://127.0.0.1:{port}")
        return urls

    yield start
    for stop in reversed(stops):
        stop()


def test_several_who_speak_in_real_time_are_each_answered_once_with_their_own_words(
    serve: Callable[..., list[str]],
) -> None:
    (url,) = serve(str(EMBEDDED_MODEL), (SETTINGS,))
    result = asyncio.run(realtime(url, sessions=4, seconds=6.0, share=0.3))
    assert result.turns >= 4
    assert result.answered == result.right == result.turns
    assert (result.extra, result.errors) == (0, 0)


def test_a_turn_is_answered_with_the_same_text_with_speculation_and_without(
    serve: Callable[..., list[str]],
) -> None:
    urls = serve(str(EMBEDDED_MODEL), (SETTINGS, changed(SETTINGS, speculation=False)))
    few = list(clips())[:4]
    ahead, not_ahead = [asyncio.run(answers_in_real_time(url, few)) for url in urls]
    assert [one["text"] for one in ahead] == [one["text"] for one in not_ahead]
    assert len({one["text"] for one in ahead}) == 4
    assert any(one["metrics"]["speculative"] for one in ahead)
    assert not any(one["metrics"]["speculative"] for one in not_ahead)


@pytest.mark.parametrize("reads", [True, False])
def test_speech_takes_the_response_out_of_the_batch_whether_its_client_reads_or_not(
    serve: Callable[..., list[str]], tmp_path: Path, reads: bool
) -> None:
    write_random_model(tmp_path, SHAPE, torch.device("cpu"))
    (url,) = serve(str(tmp_path), (SETTINGS,))
    result = asyncio.run(interrupt(url, 2, 1, reads=reads))
    assert len(result.gone_ms) == 1
    assert len(result.told_ms) == reads
    assert result.cut_off == 0


async def test_people_who_dictate_at_once_lose_no_word(worker: str) -> None:
    spoke = await load_dictation.everybody(worker, people=2, seconds=10.0)
    for person in spoke:
        assert len(person.sentences) > 2
        assert (person.interrupted, person.errors) == (0, [])
        assert (person.missing, person.is_whole) == (0, True), person.texts


def test_a_sentence_that_is_lost_doubled_or_out_of_order_is_seen() -> None:
    said = ["stop the music", "what time is it", "one moment please"]
    whole = load_dictation.Dictation(
        said, ["Stop the music.", "What time is it? One moment please."]
    )
    assert (whole.missing, whole.is_whole) == (0, True)
    lost = load_dictation.Dictation(said, ["Stop the music.", "", "One moment please."])
    assert (lost.missing, lost.is_whole) == (1, False)
    swapped = load_dictation.Dictation(said, [said[1], said[0], said[2]])
    assert (swapped.missing, swapped.is_whole) == (1, False)
    doubled = load_dictation.Dictation(said, [*said, said[2]])
    assert (doubled.missing, doubled.is_whole) == (0, False)
    assert not load_dictation.Dictation(said, said, interrupted=1).is_whole


def test_sounds_without_speech_get_no_response_and_the_sentence_after_them_gets_one(
    serve: Callable[..., list[str]],
) -> None:
    (url,) = serve(str(EMBEDDED_MODEL), (SETTINGS,))
    found = load_sounds.served(url, minutes=0.1)
    assert len(found) == len(load_sounds.SOUNDS)
    for counts in found.values():
        assert (counts["turns"], counts["responses"], counts["answered"]) == (0, 0, 1)
