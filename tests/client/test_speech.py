"""Spoken answers as the Python client's events."""

import asyncio

from tests.support.cuttable_line import CuttableLine
from tests.support.talking_server import TalkingServer
from voxtral_worker.client import Response, Speech, Voxtral, VoxtralClient


async def spoken(client: VoxtralClient) -> tuple[list[Speech], list[Response]]:
    pieces: list[Speech] = []
    responses: list[Response] = []
    async with asyncio.timeout(60):
        async for event in client.events():
            if isinstance(event, Response):
                responses.append(event)
            if isinstance(event, Speech):
                pieces.append(event)
                if event.is_final:
                    break
    return pieces, responses


async def test_each_piece_of_speech_is_an_event_with_its_sound(talking: TalkingServer) -> None:
    async with VoxtralClient(talking.server.url, voice="default") as client:
        await client.send_text("hello")
        pieces, (response,) = await spoken(client)
    assert "".join(piece.text for piece in pieces) == response.text
    assert all(len(piece.sound) == piece.duration_ms * 48 for piece in pieces)
    assert [piece.offset_ms for piece in pieces] == [400.0 * n for n in range(len(pieces))]
    assert {piece.turn_id for piece in pieces} == {response.turn_id}


async def test_after_a_lost_connection_the_words_come_and_the_sound_does_not_twice(
    talking: TalkingServer,
) -> None:
    line = CuttableLine(talking.server.settings.port)
    async with VoxtralClient(await line.listen(), voice="default") as client:
        await client.send_text("hello")
        pieces, _ = await spoken(client)
        # That was not read: it comes again, without its sound.
        await client.send_text("hello")
        await asyncio.sleep(0.5)
        line.cut()
        again, (response,) = await spoken(client)
    await line.close()
    assert "".join(piece.text for piece in again) == response.text
    assert [piece.offset_ms for piece in again] == [piece.offset_ms for piece in pieces]
    # What was ahead when the connection was lost is silent, and nothing is there twice.
    assert all(len(piece.sound) in (0, piece.duration_ms * 48) for piece in again)


def test_what_was_played_is_told_by_the_other_client_too(talking: TalkingServer) -> None:
    talking.engine.words = ("A very long sentence that goes on and on and on. " * 4,)
    with Voxtral(talking.server.url, voice="default") as client:
        client.send_text("hello")
        turn_id = next(e.turn_id for e in client.events() if isinstance(e, Speech))
        assert turn_id is not None
        client.cancel()
        client.played(turn_id, 0)
        asked = client.send_text("again")
        for event in client.events():
            if isinstance(event, Response) and event.request_id == asked:
                break
    (exchange,) = talking.engine.requests[-1].conversation.history
    assert exchange.assistant.text == ""
