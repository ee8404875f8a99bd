"""Spoken answers: how they sound, how soon they come, what they cost, how soon they are silent.

    python -m bench speech

A worker of its own with the embedded model and the embedded voice; people speak an embedded
clip in real time.
"""

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np
import psutil

from bench.load_speakers import loud_frames, percentile
from tests.support.sounds import FRAME_SAMPLES, RATE, clips, silence
from tests.support.workers import running_process
from voxtral_worker.client import Delta, Response, Speech, Status, VoxtralClient
from voxtral_worker.client.options import Options
from voxtral_worker.speech.embedded import EmbeddedVoice, voices_there
from voxtral_worker.speech.sentences import SentenceSplitter
from voxtral_worker.speech.voice import VOICE_RATE, Samples

SESSIONS = (1, 5, 10)
TURNS = 5
CLIP = "turn on the kitchen light"
FRAME_BYTES = 2 * FRAME_SAMPLES
FRAME_S = FRAME_SAMPLES / RATE
TIMEOUT_S = 60.0
# Answers for the price of one, and rounds of them for the memory.
ANSWERS, ROUNDS = 20, 5
BARGE_INS = 10
TEXT = (
    "The kitchen light is on now. Okay, I can do that for you right away, but I need to know which "
    "lamp you mean. I set the timer to 25 minutes at 9:30am on Jan. 5th, 2019. Dr. Smith paid "
    "$3.50 for 5km of wire, e.g. 20% less than St. John did. Yes. What would you like to do next?"
)


def run() -> None:
    """Print all tables."""
    asyncio.run(_measure())


async def _measure() -> None:
    sounds()
    with running_process({"SPEECH": "embedded", "RESPONSE_CACHE_SIZE": "0"}) as worker:
        process = psutil.Process(worker.process.pid)
        url = worker.url
        await _asked(url, 3, voice="default")
        await first_sounds(url)
        await interruptions(url)
        await price(url, process)


# How it sounds.


def sounds() -> None:
    """Levels and joints of the voice, and how fast it is, without a worker."""
    voice = EmbeddedVoice()
    voice.load()
    splitter = SentenceSplitter()
    sentences = [*splitter.push(TEXT), *splitter.finish()]
    began_s = time.process_time()
    spoken = [_said(voice, sentence) for sentence in sentences]
    took_s = time.process_time() - began_s
    joined = np.concatenate(spoken)
    ends = [abs(float(samples[at])) for samples in spoken for at in (0, -1)]
    leads = [np.flatnonzero(np.abs(s) > 0.01)[0] / VOICE_RATE for s in spoken]
    rms = [float(np.sqrt(np.mean(samples**2))) for samples in spoken]
    print("\n| the embedded voice | |\n|---|---|")
    for name, value in (
        ("speech, s", f"{len(joined) / VOICE_RATE:.1f} in {len(sentences)} sentences"),
        ("as fast as it is spoken, one core", f"{len(joined) / VOICE_RATE / took_s:.0f} times"),
        ("peak, dBFS", f"{_db(float(np.abs(joined).max())):.1f}"),
        ("loudness (RMS) of a sentence, dBFS", f"{_db(min(rms)):.1f} to {_db(max(rms)):.1f}"),
        ("samples at full scale", str(int((np.abs(joined) >= 1.0).sum()))),
        ("mean (DC)", f"{abs(float(joined.mean())):.5f}"),
        ("largest sample where two sentences meet", f"{max(ends):.5f}"),
        ("silence before a sentence, ms", f"{1000 * max(leads):.0f} at most"),
    ):
        print(f"| {name} | {value} |")


def _said(voice: EmbeddedVoice, sentence: str) -> Samples:
    return np.concatenate(list(voice.say(sentence, voices_there()[0], 1.0)))


def _db(value: float) -> float:
    return float(20 * np.log10(max(value, 1e-9)))


# How soon it comes.


@dataclass
class Person:
    """One session that speaks and listens; times are of the monotonic clock."""

    client: VoxtralClient
    # When the last frame of each utterance's speech was sent.
    spoken_s: list[float] = field(default_factory=list)
    # The waits for the first sound and the first word after it.
    sounds_s: list[float] = field(default_factory=list)
    words_s: list[float] = field(default_factory=list)
    finals: int = 0
    has_word: bool = True
    has_sound: bool = True

    async def read(self) -> None:
        """Note what comes."""
        async for event in self.client.events():
            now_s = time.monotonic()
            if isinstance(event, Delta) and not self.has_word:
                self.has_word = True
                self.words_s.append(now_s - self.spoken_s[-1])
            if isinstance(event, Speech):
                if not self.has_sound:
                    self.has_sound = True
                    self.sounds_s.append(now_s - self.spoken_s[-1])
                self.finals += event.is_final

    async def speak(self, turns: int) -> None:
        """Take turns: each answer is heard to its end."""
        audio, last = utterance()
        for turn in range(turns):
            for number in range(len(audio) // FRAME_BYTES):
                await self.client.send_audio(
                    audio[number * FRAME_BYTES : (number + 1) * FRAME_BYTES]
                )
                if number == last:
                    self.spoken_s.append(time.monotonic())
                    self.has_word = self.has_sound = False
                await asyncio.sleep(FRAME_S)
            async with asyncio.timeout(TIMEOUT_S):
                while self.finals <= turn:
                    await self.client.send_audio(bytes(FRAME_BYTES))
                    await asyncio.sleep(FRAME_S)
            # What is ahead of the listener is played before it speaks again.
            for _ in range(int(2.5 / FRAME_S)):
                await self.client.send_audio(bytes(FRAME_BYTES))
                await asyncio.sleep(FRAME_S)


def utterance() -> tuple[bytes, int]:
    """A sentence with quiet around it, and its last frame in which speech is."""
    audio = silence(8) + clips()[CLIP] + silence(2)
    return audio, int(loud_frames(audio, 0.05)[-1])


async def first_sounds(url: str) -> None:
    """The end of speech until the first sound, with several people at once."""
    print("\n| people | end of speech → first word, p50 ms | p95 | → first sound, p50 ms | p95 |")
    print("|---|---|---|---|---|")
    for count in SESSIONS:
        people = await asyncio.gather(*(_converse(url, index) for index in range(count)))
        words = [1000 * s for person in people for s in person.words_s]
        heard = [1000 * s for person in people for s in person.sounds_s]
        row = [percentile(words, 50), percentile(words, 95)]
        row += [percentile(heard, 50), percentile(heard, 95)]
        print(f"| {count} | " + " | ".join(f"{ms:.0f}" for ms in row) + " |")


async def _converse(url: str, index: int) -> Person:
    async with VoxtralClient(url, temperature=0, voice="default") as client:
        person = Person(client)
        reading = asyncio.create_task(person.read())
        # People do not begin together.
        await asyncio.sleep(0.37 * index)
        await person.speak(TURNS)
        reading.cancel()
        return person


# How soon it is silent.


async def interruptions(url: str) -> None:
    """From the first frame of speech over an answer's speech until it is interrupted."""
    told_ms: list[float] = []
    waits_ms: list[float] = []
    late = 0
    audio, _ = utterance()
    frames = [audio[at : at + FRAME_BYTES] for at in range(0, len(audio), FRAME_BYTES)]
    first = next(n for n, frame in enumerate(frames) if _is_loud(frame))
    for _ in range(BARGE_INS):
        async with VoxtralClient(url, temperature=0, voice="default") as client:
            for chunk in frames + [bytes(FRAME_BYTES)] * 20:
                await client.send_audio(chunk)
            turn_id = await _until_sound(client)
            begun_s = time.monotonic()
            last_s, told_s = begun_s, None
            sending = asyncio.create_task(_send(client, frames[first:]))
            async with asyncio.timeout(TIMEOUT_S), aclosing(client.events()) as events:
                while told_s is None or not sending.done():
                    event = await anext(events)
                    if event.turn_id != turn_id:
                        continue
                    if isinstance(event, Speech):
                        last_s = time.monotonic()
                        late += told_s is not None
                    if isinstance(event, Status) and event.status == "interrupted":
                        told_s = time.monotonic()
        waits_ms.append(1000 * (last_s - begun_s))
        told_ms.append(1000 * (told_s - begun_s))
    print("\n| barge-in | |\n|---|---|")
    print(f"| answers interrupted while they were heard | {BARGE_INS} |")
    print(
        f"| first frame of speech → last frame of sound, p50 ms | {percentile(waits_ms, 50):.0f} |"
    )
    print(f"| the same, most | {max(waits_ms):.0f} |")
    print(f"| frames of sound after `interrupted` | {late} |")


def _is_loud(frame: bytes) -> bool:
    return int(np.abs(np.frombuffer(frame, "<i2").astype(np.int32)).max()) > 1000


async def _send(client: VoxtralClient, frames: list[bytes]) -> None:
    for frame in frames:
        await client.send_audio(frame)
        await asyncio.sleep(FRAME_S)


async def _until_sound(client: VoxtralClient) -> str:
    async with asyncio.timeout(TIMEOUT_S), aclosing(client.events()) as events:
        async for event in events:
            if isinstance(event, Speech):
                return str(event.turn_id)
    raise RuntimeError("the session has ended")


# What it costs.


async def price(url: str, process: psutil.Process) -> None:
    """Processor time of an answer with its speech and without, and the memory of many."""
    await _asked(url, ANSWERS, voice=None)
    before_s, _ = await _cost(url, process, voice=None)
    sizes, spoken_s, seconds = [], 0.0, 0.0
    for _ in range(ROUNDS):
        took_s, speech_s = await _cost(url, process, voice="default")
        spoken_s, seconds = spoken_s + took_s, seconds + speech_s
        sizes.append(process.memory_info().rss >> 20)
    after_s, _ = await _cost(url, process, voice=None)
    silent_s = (before_s + after_s) / 2
    spoken_s /= ROUNDS
    speech_s = seconds / ROUNDS
    share = (spoken_s - silent_s) / speech_s
    print("\n| price | |\n|---|---|")
    print(f"| processor time of an answer as text, ms | {1000 * silent_s / ANSWERS:.0f} |")
    print(f"| the same, spoken, ms | {1000 * spoken_s / ANSWERS:.0f} |")
    print(f"| speech of an answer, s | {speech_s / ANSWERS:.1f} |")
    print(f"| share of a core while a session speaks, % | {100 * share:.1f} |")
    print(f"| memory after each {ANSWERS} spoken answers, MiB | {', '.join(map(str, sizes))} |")


async def _cost(url: str, process: psutil.Process, *, voice: str | None) -> tuple[float, float]:
    before = process.cpu_times()
    seconds = await _asked(url, ANSWERS, voice)
    after = process.cpu_times()
    return after.user + after.system - before.user - before.system, seconds


async def _asked(url: str, answers: int, voice: str | None) -> float:
    """Ask so many texts, each once its answer is whole; the seconds of speech that came."""
    spoken_ms = 0.0
    config: Options = {"temperature": 0} if voice is None else {"temperature": 0, "voice": voice}
    async with VoxtralClient(url, **config) as client:
        for number in range(answers):
            await client.send_text(f"set a timer for {1 + number % 9} minutes")
            async with asyncio.timeout(TIMEOUT_S), aclosing(client.events()) as events:
                async for event in events:
                    if isinstance(event, Speech):
                        spoken_ms += event.duration_ms
                        if event.is_final:
                            break
                    elif isinstance(event, Response) and voice is None:
                        break
    return spoken_ms / 1000
