"""A typed conversation over REST. The client keeps its history."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2

from voxtral_worker.client.errors import VoxtralError
from voxtral_worker.client.rest import UNREACHABLE, Rest, refusal, tls, unreachable

# Longest wait for the next piece of an answer. A busy worker on a CPU is slow with the first one.
TIMEOUT_S = 120.0


@dataclass
class Chat:
    """The messages so far. A question that got no whole answer is not part of them."""

    rest: Rest
    model: str
    messages: list[dict[str, str]] = field(default_factory=list)

    def ask(self, text: str) -> Iterator[str]:
        """Yield the answer piece by piece, as it is made; blocks. Raises VoxtralError."""
        messages = [*self.messages, {"role": "user", "content": text}]
        pieces: list[str] = []
        for event in self._events({"model": self.model, "messages": messages, "stream": True}):
            if "error" in event:
                raise VoxtralError(event["error"]["message"])
            for choice in event.get("choices", ()):
                if piece := choice["delta"].get("content"):
                    pieces.append(piece)
                    yield piece
        self.messages = [*messages, {"role": "assistant", "content": "".join(pieces)}]

    def _events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the server-sent events up to `[DONE]`. Raises VoxtralError if that never comes."""
        has_begun = False
        with httpx2.Client(
            headers=self.rest.headers, timeout=TIMEOUT_S, verify=tls(), follow_redirects=True
        ) as http:
            try:
                with http.stream(
                    "POST", f"{self.rest.url}/v1/chat/completions", json=body
                ) as response:
                    if not response.is_success:
                        raise refusal(response.status_code, response.headers, response.read())
                    has_begun = True
                    for line in response.iter_lines():
                        name, _, data = line.partition(":")
                        if name == "data":
                            if data.strip() == "[DONE]":
                                return
                            yield json.loads(data)
            except UNREACHABLE as error:
                if not has_begun:
                    raise unreachable(error) from error
        raise VoxtralError("the connection was lost before the answer was whole")
