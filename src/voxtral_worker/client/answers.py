"""Writes a worker's answers to a terminal as they are made."""

from typing import TextIO

from tqdm import tqdm

from voxtral_worker.client.events import Delta, Event, Response


class Answers:
    """Writes one line for each response. Above a progress bar it writes whole lines only."""

    def __init__(self, out: TextIO, bar: "tqdm[None] | None" = None) -> None:
        self._out = out
        self._bar = bar
        # The response so far, and the part of it that is on the terminal.
        self._shown = ""
        self._line = ""

    def take(self, event: Event) -> None:
        """Write the text that an event adds."""
        match event:
            case Delta(text=text):
                self._line += text
                self._write_on()
            case Response(text="", finish_reason="tool_calls"):
                # The turn continues after its tool calls: its line is not over.
                pass
            case Response(text=text):
                # After a lost connection some deltas may be missing: if the whole text does not
                # begin with what is shown, keep the shown line.
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
        # A closed bar is disabled, and no longer on the screen.
        return self._bar is not None and not self._bar.disable
