"""The answers of a worker, written to a terminal as they are made."""

from typing import TextIO

from tqdm import tqdm

from voxtral_worker.client.events import Delta, Event, Response


class Answers:
    """One line a response; under a progress bar the line comes when it is whole."""

    def __init__(self, out: TextIO, bar: "tqdm[None] | None" = None) -> None:
        self._out = out
        self._bar = bar
        self._shown = ""
        self._line = ""

    def take(self, event: Event) -> None:
        """Write what the event adds."""
        match event:
            case Delta(text=text):
                self._line += text
                self._write_on()
            case Response(text="", finish_reason="tool_calls"):
                # The turn goes on.
                pass
            case Response(text=text):
                # A resumed line may have begun in the middle of a response.
                self._line = text if text.startswith(self._shown) else self._line
                self._write_line()

    def _write_on(self) -> None:
        if self._has_bar():
            return
        self._out.write(self._line[len(self._shown) :])
        self._out.flush()
        self._shown = self._line

    def _write_line(self) -> None:
        if self._has_bar():
            tqdm.write(self._line, file=self._out)
        else:
            self._out.write(self._line[len(self._shown) :] + "\n")
        self._out.flush()
        self._line = self._shown = ""

    def _has_bar(self) -> bool:
        # A bar that is over is gone from the screen.
        return self._bar is not None and not self._bar.disable
