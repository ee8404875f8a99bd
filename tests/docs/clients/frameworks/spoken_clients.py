"""Spoken conversations by real frameworks, with their defaults; the address is ours.

Each clip is spoken, the answer is heard to its end, and then the next one is spoken. What the
framework would have played is written down by a recogniser of another family than the worker's.

python spoken_clients.py NAME BASE_URL [--tool] CLIP.wav...
"""

import asyncio
import json
import sys
import wave

import numpy as np
import soxr
from pocketsphinx import Decoder

RATE = 24_000
CHUNK_S = 0.04
CHUNK_BYTES = int(2 * RATE * CHUNK_S)
WAIT_S = 60.0
# What may be heard: the answers of the embedded model to its bundled clips, among others.
GRAMMAR = """#JSGF V1.0;
grammar answers;
public <answer> = [you said] ( turn on the kitchen light | turn off the living room fan |
 what time is it | set a timer for five minutes | open the garage door | call three one four |
 go forward two meters | what is the weather tomorrow | one moment please | call home on friday |
 stop the music | close the kitchen window ) | hello how are you | hello | i am fine thank you |
 i heard nothing | i do not know | you are welcome | thank you | goodbye | okay | done ;
"""
CALLS: list[str] = []


def sound(path: str) -> bytes:
    """A clip of 16 kHz with quiet around it, as 16-bit samples of 24 kHz."""
    with wave.open(path) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32)
    samples = soxr.resample(np.concatenate([np.zeros(8000), samples]), 16_000, RATE)
    return samples.astype("<i2").tobytes()


def heard(said: bytes) -> str:
    """The words of 16-bit samples of 24 kHz, and how long they take."""
    samples = np.frombuffer(said, "<i2").astype(np.float32) / 32_768
    if not len(samples):
        return "(nothing)"
    decoder = Decoder(samprate=16_000, loglevel="FATAL")
    decoder.add_jsgf_string("answers", GRAMMAR)
    decoder.activate_search("answers")
    decoder.start_utt()
    at_16 = np.clip(soxr.resample(samples, RATE, 16_000), -1, 1)
    decoder.process_raw((at_16 * 32_767).astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return hypothesis.hypstr if hypothesis else f"({len(samples) / RATE:.1f} s of something else)"


class Microphone:
    """Gives a chunk each 40 ms, and silence where nothing is said."""

    def __init__(self) -> None:
        self._left = b""

    def say(self, clip: str) -> None:
        self._left = sound(clip)

    @property
    def is_speaking(self) -> bool:
        return bool(self._left)

    def chunk(self) -> bytes:
        chunk, self._left = self._left[:CHUNK_BYTES], self._left[CHUNK_BYTES:]
        return chunk + bytes(CHUNK_BYTES - len(chunk))


class Loudspeaker:
    """What was played; it has played all of it after as long as it lasts."""

    def __init__(self) -> None:
        self.said = bytearray()
        self._silent_from_s = 0.0

    def play(self, data: bytes) -> None:
        self.said += data
        now_s = asyncio.get_running_loop().time()
        self._silent_from_s = max(self._silent_from_s, now_s) + len(data) / (2 * RATE)

    async def is_silent(self) -> None:
        """Wait until an answer has come and was heard to its end."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(WAIT_S):
            while not self.said or loop.time() < self._silent_from_s + 1.0:
                await asyncio.sleep(0.05)

    def take(self) -> bytes:
        said, self.said = bytes(self.said), bytearray()
        return said


async def talk(microphone: Microphone, speaker: Loudspeaker, clips: list[str]) -> str:
    """One turn for each clip; what was heard of the answers."""
    answers = []
    for clip in clips:
        microphone.say(clip)
        while microphone.is_speaking:
            await asyncio.sleep(CHUNK_S)
        await speaker.is_silent()
        answers.append(await asyncio.to_thread(heard, speaker.take()))
    return " | ".join(answers)


async def openai_agents(url: str, clips: list[str], with_tool: bool) -> str:
    from agents import function_tool
    from agents.realtime import RealtimeAgent, RealtimeRunner

    @function_tool
    def set_device(on: bool) -> str:
        """Switch the light of the kitchen.

        Args:
            on: whether it is to shine
        """
        CALLS.append(json.dumps({"on": on}))
        return "done"

    agent = RealtimeAgent(name="lamp", tools=[set_device] if with_tool else [])
    address = url.replace("http", "ws", 1) + "/realtime?model=gpt-realtime"
    config: dict = {"api_key": "none", "url": address}
    if with_tool:
        config["initial_model_settings"] = {"tool_choice": "required", "parallel_tool_calls": False}
    microphone, speaker, wrong = Microphone(), Loudspeaker(), []
    async with await RealtimeRunner(agent).run(model_config=config) as session:

        async def speak() -> None:
            while True:
                await session.send_audio(microphone.chunk())
                await asyncio.sleep(CHUNK_S)

        async def listen() -> None:
            async for event in session:
                if event.type == "audio":
                    speaker.play(event.audio.data)
                elif event.type == "error":
                    wrong.append(str(event.error))

        tasks = [asyncio.create_task(speak()), asyncio.create_task(listen())]
        said = await talk(microphone, speaker, clips)
        for task in tasks:
            task.cancel()
    return f"{said} | calls: {len(CALLS)} | errors: {wrong}"


async def livekit(url: str, clips: list[str], with_tool: bool) -> str:
    from livekit import rtc
    from livekit.agents import Agent, AgentSession, function_tool
    from livekit.agents.voice import io
    from livekit.plugins import openai

    microphone, speaker, wrong = Microphone(), Loudspeaker(), []

    class In(io.AudioInput):
        async def __anext__(self) -> rtc.AudioFrame:
            await asyncio.sleep(CHUNK_S)
            chunk = microphone.chunk()
            return rtc.AudioFrame(chunk, RATE, 1, len(chunk) // 2)

    class Out(io.AudioOutput):
        def __init__(self) -> None:
            capabilities = io.AudioOutputCapabilities(pause=False)
            super().__init__(label="test", capabilities=capabilities, sample_rate=RATE)
            self._seconds = 0.0

        async def capture_frame(self, frame: rtc.AudioFrame) -> None:
            await super().capture_frame(frame)
            if not self._seconds:
                self.on_playback_started(created_at=asyncio.get_running_loop().time())
            self._seconds += frame.duration
            speaker.play(bytes(frame.data))

        def flush(self) -> None:
            super().flush()
            if self._seconds:
                asyncio.get_running_loop().call_later(self._seconds, self._finish, self._seconds)
                self._seconds = 0.0

        def _finish(self, seconds: float) -> None:
            self.on_playback_finished(playback_position=seconds, interrupted=False)

        def clear_buffer(self) -> None:
            if self._seconds:
                self.on_playback_finished(playback_position=self._seconds, interrupted=True)
                self._seconds = 0.0

    @function_tool
    async def set_device(on: bool) -> str:
        """Switch the light of the kitchen.

        Args:
            on: whether it is to shine
        """
        CALLS.append(json.dumps({"on": on}))
        return "done"

    choice: dict = {"tool_choice": "required"} if with_tool else {}
    model = openai.realtime.RealtimeModel(base_url=url, api_key="none", **choice)
    session = AgentSession(llm=model)
    session.on("error", lambda event: wrong.append(str(event.error)))
    session.input.audio = In(label="test")
    session.output.audio = Out()
    await session.start(Agent(instructions="Be kind.", tools=[set_device] if with_tool else []))
    said = await talk(microphone, speaker, clips)
    await session.aclose()
    await model.aclose()
    return f"{said} | calls: {len(CALLS)} | errors: {wrong}"


async def pipecat(url: str, clips: list[str], with_tool: bool) -> str:
    from pipecat.adapters.schemas.function_schema import FunctionSchema
    from pipecat.adapters.schemas.tools_schema import ToolsSchema
    from pipecat.frames.frames import (
        ErrorFrame,
        InputAudioRawFrame,
        LLMRunFrame,
        TTSAudioRawFrame,
    )
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.runner import PipelineRunner
    from pipecat.pipeline.task import PipelineParams, PipelineTask
    from pipecat.processors.aggregators.llm_context import LLMContext
    from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
    from pipecat.processors.frame_processor import FrameProcessor
    from pipecat.services.openai.realtime.events import SessionProperties
    from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService

    microphone, speaker, wrong = Microphone(), Loudspeaker(), []
    lamp = FunctionSchema(
        name="set_device",
        description="Switches the light of the kitchen",
        properties={"on": {"type": "boolean", "description": "whether it is to shine"}},
        required=["on"],
    )
    properties = SessionProperties(
        # What it leaves to the server's default, which is text here.
        output_modalities=["audio"],
        **({"tool_choice": "required"} if with_tool else {}),
    )
    llm = OpenAIRealtimeLLMService(
        api_key="none",
        base_url=url.replace("http", "ws", 1) + "/realtime",
        settings=OpenAIRealtimeLLMService.Settings(session_properties=properties),
    )

    async def set_device(params) -> None:  # type: ignore[no-untyped-def]
        CALLS.append(json.dumps(dict(params.arguments)))
        await params.result_callback("done")

    if with_tool:
        llm.register_function("set_device", set_device)
    greeting: list = [{"role": "developer", "content": "Say hello!"}]
    tools = {"tools": ToolsSchema(standard_tools=[lamp])} if with_tool else {}
    context = LLMContext(greeting, **tools)
    pair = LLMContextAggregatorPair(context)

    class Watch(FrameProcessor):
        async def process_frame(self, frame, direction):  # type: ignore[no-untyped-def]
            await super().process_frame(frame, direction)
            if isinstance(frame, TTSAudioRawFrame):
                speaker.play(frame.audio)
            elif isinstance(frame, ErrorFrame):
                wrong.append(frame.error)
            await self.push_frame(frame, direction)

    task = PipelineTask(
        Pipeline([pair.user(), llm, Watch(), pair.assistant()]),
        params=PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE),
        idle_timeout_secs=None,
    )
    running = asyncio.create_task(PipelineRunner(handle_sigint=False).run(task))

    async def speak() -> None:
        while True:
            chunk = microphone.chunk()
            await task.queue_frame(
                InputAudioRawFrame(audio=chunk, sample_rate=RATE, num_channels=1)
            )
            await asyncio.sleep(CHUNK_S)

    # As its examples do: the context goes in first, and the assistant greets.
    await task.queue_frame(LLMRunFrame())
    await speaker.is_silent()
    speaker.take()
    CALLS.clear()
    speaking = asyncio.create_task(speak())
    said = await talk(microphone, speaker, clips)
    speaking.cancel()
    await task.cancel()
    await asyncio.wait([running], timeout=10)
    return f"{said} | calls: {len(CALLS)} | errors: {wrong}"


if __name__ == "__main__":
    name, address, *rest = sys.argv[1:]
    asked = [clip for clip in rest if clip != "--tool"]
    made = asyncio.run(globals()[name](address, asked, "--tool" in rest))
    sys.stdout.write(made + "\n")
