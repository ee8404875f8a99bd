"""A line to a worker that a test can cut."""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from functools import partial


class CuttableLine:
    """A TCP proxy on loopback whose connections can all be cut at once.

    With several ports each new connection goes to the next of them, as behind a balancer.
    """

    def __init__(self, *ports: int) -> None:
        self._ports = itertools.cycle(ports)
        self._writers: list[asyncio.StreamWriter] = []
        self._pipes: set[asyncio.Task[None]] = set()
        # Set while what the worker sends goes through.
        self._goes_through = asyncio.Event()
        self._goes_through.set()

    async def listen(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    def hold_back(self) -> None:
        """Let nothing of the worker through, until the line is cut or `let_through`."""
        self._goes_through.clear()

    def let_through(self) -> None:
        self._goes_through.set()

    def cut(self) -> None:
        self._goes_through.set()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", next(self._ports))
        self._writers += [writer, back]
        always = asyncio.Event()
        always.set()
        for source, sink, gate in (
            (reader, back, always),
            (there, writer, self._goes_through),
        ):
            pipe = asyncio.create_task(self._pipe(source, sink, gate))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pipe(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65_536):
                await gate.wait()
                sink.write(data)
                await sink.drain()
        sink.close()


@contextlib.contextmanager
def cuttable(port: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """For a caller without asyncio: the address of a line, and what cuts it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def begin() -> tuple[CuttableLine, str]:
        line = CuttableLine(port)
        return line, await line.listen()

    line, url = asyncio.run_coroutine_threadsafe(begin(), loop).result(10)
    try:
        yield url, partial(loop.call_soon_threadsafe, line.cut)
    finally:
        asyncio.run_coroutine_threadsafe(line.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
