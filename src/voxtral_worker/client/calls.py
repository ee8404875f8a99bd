"""Runs the model's calls of the Python functions among a session's tools."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from voxtral_worker.client.errors import VoxtralError
from voxtral_worker.client.events import ToolCall
from voxtral_worker.client.functions import CallableTool, run, tool_of

# Sends a result: the call, the content and, as `is_error`, whether the function failed.
Send = Callable[..., Awaitable[None]]


class Calls:
    """The functions by name, and the calls that are running."""

    def __init__(self) -> None:
        self._functions: dict[str, CallableTool] = {}
        self._running: set[asyncio.Task[None]] = set()

    def described(self, config: dict[str, Any]) -> dict[str, Any]:
        """The options as JSON for the worker. Keeps the functions among the tools to run them.

        Raises VoxtralError if a function cannot be used as a tool.
        """
        tools = config.get("tools")
        if tools is None:
            return config
        mine = [tool_of(tool) if callable(tool) else tool for tool in tools]
        self._functions = {tool.name: tool for tool in mine if isinstance(tool, CallableTool)}
        definitions = [tool.definition if isinstance(tool, CallableTool) else tool for tool in mine]
        return {**config, "tools": definitions}

    def start(self, call: ToolCall, send: Send) -> None:
        """Run a call in the background and send its result, if its tool is one of the functions."""
        if (function := self._functions.get(call.name)) is None:
            return
        task = asyncio.create_task(_run(function, call, send))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def stop(self) -> None:
        """Cancel the calls that are running."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


async def _run(function: CallableTool, call: ToolCall, send: Send) -> None:
    content, is_error = await run(function, call.arguments)
    # VoxtralError: the session is over, so the result is not needed.
    with contextlib.suppress(VoxtralError):
        await send(call, content, is_error=is_error)
