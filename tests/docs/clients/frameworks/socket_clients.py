"""Live conversations by real frameworks, with their defaults; the address is ours.

python socket_clients.py NAME BASE_URL CLIP.wav
"""

import asyncio
import sys
import wave

import numpy as np

RATE = 24_000


def sound(path: str, rate: int = RATE) -> bytes:
    """A clip of 16 kHz with silence around it, as 16-bit samples of another rate."""
    with wave.open(path) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32)
    samples = np.concatenate([np.zeros(8000), samples, np.zeros(24_000)])
    places = np.arange(0, len(samples) - 1, 16_000 / rate)
    return np.interp(places, np.arange(len(samples)), samples).astype("<i2").tobytes()


def chunks(data: bytes, size: int = 4800) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


async def openai_agents(url: str, clip: str) -> str:
    from agents.realtime import RealtimeAgent, RealtimeRunner

    runner = RealtimeRunner(RealtimeAgent(name="lamp", instructions="Be kind."))
    address = url.replace("http", "ws", 1) + "/realtime?model=gpt-realtime"
    said: list[str] = []
    async with await runner.run(model_config={"api_key": "none", "url": address}) as session:
        await session.send_message("Hello, how are you?")
        turns = 0
        async for event in session:
            if event.type == "error":
                raise SystemExit(f"error: {event.error}")
            if event.type == "agent_end":
                turns += 1
                if turns == 1:
                    for chunk in chunks(sound(clip)):
                        await session.send_audio(chunk)
                else:
                    break
            if event.type == "history_updated":
                said = [str(item) for item in event.history]
    return "\n".join(said)


async def livekit(url: str, clip: str) -> str:
    from livekit import rtc
    from livekit.plugins import openai

    model = openai.realtime.RealtimeModel(base_url=url, api_key="none")
    session = model.session()
    errors: list[str] = []
    heard: asyncio.Queue[str] = asyncio.Queue()
    made: asyncio.Queue[object] = asyncio.Queue()
    session.on("error", lambda error: errors.append(str(error)))
    session.on(
        "input_audio_transcription_completed",
        lambda e: e.is_final and heard.put_nowait(e.transcript),
    )
    session.on("generation_created", made.put_nowait)

    async def words(generation: object) -> str:
        texts = [
            text
            async for message in generation.message_stream  # type: ignore[attr-defined]
            async for text in message.text_stream
        ]
        return "".join(str(text) for text in texts)

    await session.update_instructions("Be kind.")
    greeting = await words(await session.generate_reply(instructions="Greet the user."))
    while not made.empty():
        made.get_nowait()
    for chunk in chunks(sound(clip)):
        session.push_audio(rtc.AudioFrame(chunk, RATE, 1, len(chunk) // 2))
    async with asyncio.timeout(60):
        answer = await words(await made.get())
        transcript = await heard.get()
    await session.aclose()
    await model.aclose()
    return f"{greeting} | {transcript} | {answer} | errors: {errors}"


async def livekit_stt(url: str, clip: str) -> str:
    import aiohttp
    from livekit import rtc
    from livekit.agents.stt import SpeechEventType
    from livekit.plugins import openai

    stt = openai.STT(base_url=url, api_key="none", use_realtime=True)
    async with aiohttp.ClientSession() as http:
        stt._session = http
        stream = stt.stream()
        for chunk in chunks(sound(clip)):
            stream.push_frame(rtc.AudioFrame(chunk, RATE, 1, len(chunk) // 2))
        async with asyncio.timeout(60):
            async for event in stream:
                if event.type == SpeechEventType.FINAL_TRANSCRIPT:
                    await stream.aclose()
                    return event.alternatives[0].text
    return "nothing"


async def pipecat(url: str, clip: str) -> str:
    from pipecat.frames.frames import InputAudioRawFrame
    from pipecat.processors.aggregators.llm_context import LLMContext
    from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
    from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService

    llm = OpenAIRealtimeLLMService(
        api_key="none", base_url=url.replace("http", "ws", 1) + "/realtime"
    )
    context = LLMContext([{"role": "developer", "content": "Say hello!"}])
    pair = LLMContextAggregatorPair(context)
    return await pipecat_run([pair.user(), llm, pair.assistant()], clip, InputAudioRawFrame, True)


async def pipecat_stt(url: str, clip: str) -> str:
    from pipecat.frames.frames import InputAudioRawFrame
    from pipecat.services.openai.stt import OpenAIRealtimeSTTService

    stt = OpenAIRealtimeSTTService(
        api_key="none", base_url=url.replace("http", "ws", 1) + "/realtime", turn_detection=None
    )
    return await pipecat_run([stt], clip, InputAudioRawFrame, False)


async def pipecat_run(processors: list, clip: str, audio_frame: type, runs_first: bool) -> str:
    from pipecat.frames.frames import (
        ErrorFrame,  # fmt: skip
        LLMFullResponseEndFrame,
        LLMRunFrame,
        LLMTextFrame,
        TranscriptionFrame,
    )
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.runner import PipelineRunner
    from pipecat.pipeline.task import PipelineParams, PipelineTask
    from pipecat.processors.frame_processor import FrameProcessor

    seen: list[str] = []
    ends: asyncio.Queue[str] = asyncio.Queue()

    class Watch(FrameProcessor):
        async def process_frame(self, frame, direction):  # type: ignore[no-untyped-def]
            await super().process_frame(frame, direction)
            match frame:
                case TranscriptionFrame():
                    seen.append(f"<{frame.text}>")
                    ends.put_nowait("transcript")
                case LLMTextFrame():
                    seen.append(frame.text)
                case LLMFullResponseEndFrame():
                    seen.append(" | ")
                    ends.put_nowait("response")
                case ErrorFrame():
                    seen.append(f"error: {frame.error}")
                    ends.put_nowait("error")
            await self.push_frame(frame, direction)

    watch = [Watch()]
    task = PipelineTask(
        Pipeline(
            [*processors[:2], *watch, *processors[2:]] if runs_first else [*processors, *watch]
        ),
        params=PipelineParams(audio_in_sample_rate=RATE),
        idle_timeout_secs=None,
    )
    running = asyncio.create_task(PipelineRunner(handle_sigint=False).run(task))
    async with asyncio.timeout(100):
        if runs_first:
            await task.queue_frame(LLMRunFrame())
            await ends.get()
        else:
            await asyncio.sleep(2)
        for chunk in chunks(sound(clip)):
            await task.queue_frame(audio_frame(audio=chunk, sample_rate=RATE, num_channels=1))
            await asyncio.sleep(0.02)
        await ends.get()
    await task.cancel()
    await asyncio.wait([running], timeout=10)
    return "".join(seen)


if __name__ == "__main__":
    sys.stdout.write(asyncio.run(globals()[sys.argv[1]](*sys.argv[2:])) + "\n")
