"""Tools and forms of answers by real frameworks; the base URL and the model's name are ours.

The embedded model is asked to call, so that what is shown is the framework's own loop: the call is
read, the function is run, its result goes back, and the answer comes.

python tool_clients.py NAME BASE_URL
"""

import asyncio
import enum
import sys

from pydantic import BaseModel, Field

MODEL = "voxtral-tiny"
ASKED = "turn on the kitchen light"


class Room(enum.Enum):
    KITCHEN = "kitchen"
    BEDROOM = "bedroom"


class Device(BaseModel):
    """A device to be switched."""

    room: Room
    on: bool
    level: int = Field(ge=0, le=9)


CALLS: list[str] = []


def set_device(room: Room, on: bool) -> str:
    """Switch the light of a room.

    Args:
        room: where the light is
        on: whether it is to shine
    """
    CALLS.append(f"set_device({Room(room).value}, {on})")
    return "done"


def langchain(url: str) -> str:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI

    llm = ChatOpenAI(model=MODEL, base_url=url, api_key="none", temperature=0)
    lamp = tool(set_device)
    bound = llm.bind_tools([lamp], tool_choice="set_device", parallel_tool_calls=False)
    called = bound.invoke(ASKED)
    (call,) = called.tool_calls
    result = ToolMessage(lamp.invoke(call["args"]), tool_call_id=call["id"])
    answered = llm.bind_tools([lamp], tool_choice="none").invoke(
        [HumanMessage(ASKED), called, result]
    )
    assert isinstance(answered.content, str)
    streamed = None
    for chunk in bound.stream(ASKED):
        streamed = chunk if streamed is None else streamed + chunk
    assert [each["name"] for each in streamed.tool_calls] == ["set_device"]
    for method in ("json_schema", "function_calling"):
        made = llm.with_structured_output(Device, method=method).invoke(ASKED)
        assert isinstance(made, Device), made
    return f"calls: {len(CALLS)}, structured: Device"


def pydantic_ai(url: str) -> str:
    from pydantic_ai import Agent, NativeOutput
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=url, api_key="none"))
    settings = {"temperature": 0, "parallel_tool_calls": False, "max_tokens": 200}
    made = Agent(model, output_type=Device, model_settings=settings)
    native = Agent(model, output_type=NativeOutput(Device), model_settings=settings)

    # The tool is called once, then the agent has to give its answer.
    def prepared(ctx, tool):
        return None if CALLS else tool

    from pydantic_ai.tools import Tool

    def lamp(room: Room, on: bool) -> str:
        """Switch the light of a room."""
        return set_device(room, on)

    named = {"type": "function", "function": {"name": "lamp"}}
    agent = Agent(model, tools=[Tool(lamp, prepare=prepared)], model_settings=settings)

    # The model keeps its connection, which belongs to one event loop.
    async def run() -> str:
        for each in (made, native):
            assert isinstance((await each.run(ASKED)).output, Device)
        async with agent.iter(
            ASKED, model_settings={**settings, "extra_body": {"tool_choice": named}}
        ) as steps:
            async for step in steps:
                if CALLS and hasattr(step, "request"):
                    return "went on with the result"
        return "over"

    told = asyncio.run(run())
    return f"calls: {len(CALLS)}, output: Device, {told}"


def openai_agents(url: str) -> str:
    from agents import (
        Agent,
        ModelSettings,
        OpenAIChatCompletionsModel,
        Runner,
        function_tool,
        set_tracing_disabled,
    )
    from openai import AsyncOpenAI

    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=url, api_key="none")
    return _agents(
        OpenAIChatCompletionsModel(MODEL, client), Agent, ModelSettings, Runner, function_tool
    )


def openai_agents_responses(url: str) -> str:
    from agents import (
        Agent,
        ModelSettings,
        OpenAIResponsesModel,
        Runner,
        function_tool,
        set_tracing_disabled,
    )
    from openai import AsyncOpenAI

    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=url, api_key="none")
    return _agents(OpenAIResponsesModel(MODEL, client), Agent, ModelSettings, Runner, function_tool)


def _agents(model, Agent, ModelSettings, Runner, function_tool) -> str:  # noqa: N803
    once = {"temperature": 0, "parallel_tool_calls": False, "max_tokens": 200}
    lamp = Agent(
        "lamp",
        model=model,
        tools=[function_tool(set_device)],
        model_settings=ModelSettings(tool_choice="required", **once),
        handoff_description="switches lights",
    )
    made = Runner.run_sync(lamp, ASKED)
    assert len(CALLS) == 1, CALLS
    assert isinstance(made.final_output, str)
    talker = Agent(
        "talker",
        model=model,
        handoffs=[lamp],
        model_settings=ModelSettings(tool_choice="transfer_to_lamp", **once),
    )
    handed = Runner.run_sync(talker, ASKED)
    assert handed.last_agent.name == "lamp"
    typed = Agent("typed", model=model, output_type=Device, model_settings=ModelSettings(**once))
    assert isinstance(Runner.run_sync(typed, ASKED).final_output, Device)
    return f"calls: {len(CALLS)}, handed to {handed.last_agent.name}, output: Device"


def instructor(url: str) -> str:
    from instructor import Mode, from_openai
    from openai import OpenAI

    client = OpenAI(base_url=url, api_key="none")
    kinds = []
    for mode in (Mode.TOOLS, Mode.JSON_SCHEMA):
        made = from_openai(client, mode=mode).chat.completions.create(
            model=MODEL,
            response_model=Device,
            messages=[{"role": "user", "content": ASKED}],
            temperature=0,
            max_retries=0,
        )
        kinds.append(type(made).__name__)
    return ", ".join(kinds)


if __name__ == "__main__":
    sys.stdout.write(globals()[sys.argv[1]](sys.argv[2]) + "\n")
