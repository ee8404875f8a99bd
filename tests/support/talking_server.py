"""A server under test that speaks."""

from tests.support.running_server import RunningServer
from tests.support.voices import FakeVoice
from voxtral_worker.speech.speech import Speech


class TalkingServer:
    """A server with a voice that does as a test says."""

    def __init__(self, server: RunningServer) -> None:
        self.voice = FakeVoice()
        self.speech = Speech(self.voice, "hum")
        self.speech.start()
        self.server = server
        self.engine = server.engine
        server.become_ready(speech=self.speech)
