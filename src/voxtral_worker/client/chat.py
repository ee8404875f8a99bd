"""A typed conversation, whose history is kept here."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2

from voxtral_worker.client.errors import VoxtralError
from voxtral_worker.client.rest import UNREACHABLE, Rest, refusal, tls, unreachable

# Between two pieces of an answer: a busy worker on a CPU takes long for the first.
TIMEOUT_S = 120.0


@dataclass
class Chat:
    """What was said so far; a question that was not answered is not part of it."""

    rest: Rest
    model: str
    messages: list[dict[str, str]] = field(default_factory=list)

    def ask(self, text: str) -> Iterator[str]:
        """The answer, piece by piece, as it is made; blocks. Raises VoxtralError."""
        asked = [*self.messages, {"role": "user", "content": text}]
        pieces: list[str] = []
        for event in self._events({"model": self.model, "messages": asked, "stream": True}):
            if "error" in event:
                raise VoxtralError(event["error"]["message"])
            for choice in event.get("choices", ()):
                if piece := choice["delta"].get("content"):
                    pieces.append(piece)
                    yield piece
        self.messages = [*asked, {"role": "assistant", "content": "".join(pieces)}]

    def _events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Server-sent events up to the last, which must come."""
        with httpx2.Client(
            headers=self.rest.headers, timeout=TIMEOUT_S, verify=tls(), follow_redirects=True
        ) as http:
            try:
                with http.stream(
                    "POST", f"{self.rest.url}/v1/chat/completions", json=body
                ) as response:
                    if not response.is_success:
                        raise refusal(response.status_code, response.headers, response.read())
                    for line in response.iter_lines():
                        name, _, data = line.partition(":")
                        if name == "data":
                            if data.strip() == "[DONE]":
                                return
                            yield json.loads(data)
            except UNREACHABLE as error:
                raise unreachable(error) from error
        raise VoxtralError("the connection was lost before the answer was whole")
