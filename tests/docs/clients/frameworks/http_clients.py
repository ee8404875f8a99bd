"""Chat by real frameworks, each with its defaults; the base URL and the model's name are ours.

python http_clients.py NAME BASE_URL
"""

import asyncio
import sys

MODEL = "voxtral-tiny"
HELLO = "Hello, how are you?"


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def langchain(url: str) -> str:
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
    from langchain_openai import ChatOpenAI

    llm = ChatOpenAI(
        model=MODEL, base_url=url, api_key="none", temperature=0, seed=7, stop=["zebra"]
    )
    said = llm.invoke([SystemMessage("Be kind."), AIMessage("Hi!"), HumanMessage(HELLO)]).content
    streamed = "".join(str(chunk.content) for chunk in llm.stream(HELLO))
    return f"{said} | {streamed}"


def pydantic_ai(url: str) -> str:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=url, api_key="none"))
    agent = Agent(model, instructions="Be kind.", model_settings={"temperature": 0, "seed": 7})
    first = agent.run_sync(HELLO)
    again = agent.run_sync("thank you", message_history=first.all_messages())
    return f"{first.output} | {again.output}"


def litellm(url: str) -> str:
    import litellm

    made = litellm.completion(
        model=f"openai/{MODEL}",
        api_base=url,
        api_key="none",
        temperature=0,
        seed=7,
        stop=["zebra"],
        n=2,
        user="u",
        messages=[{"role": "user", "content": HELLO}],
    )
    return " | ".join(str(choice.message.content) for choice in made.choices)


def smolagents(url: str) -> str:
    from smolagents import CodeAgent, OpenAIServerModel

    model = OpenAIServerModel(model_id=MODEL, api_base=url, api_key="none", temperature=0)
    said = model([{"role": "user", "content": HELLO}], stop_sequences=["zebra"]).content
    # The tiny model writes no code: the agent goes through its steps, and each call is answered.
    CodeAgent(tools=[], model=model, max_steps=1, verbosity_level=0).run("Say hello.")
    return str(said)


def openai_agents(url: str) -> str:
    from agents import Agent, OpenAIChatCompletionsModel, Runner, set_tracing_disabled
    from openai import AsyncOpenAI

    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=url, api_key="none")
    agent = Agent("lamp", instructions="Be kind.", model=OpenAIChatCompletionsModel(MODEL, client))
    first = Runner.run_sync(agent, HELLO)
    talk = [*first.to_input_list(), {"role": "user", "content": "thank you"}]
    return f"{first.final_output} | {Runner.run_sync(agent, talk).final_output}"


def openai_agents_responses(url: str) -> str:
    from agents import Agent, Runner, set_default_openai_client, set_tracing_disabled
    from openai import AsyncOpenAI

    set_tracing_disabled(True)
    set_default_openai_client(AsyncOpenAI(base_url=url, api_key="none"))
    agent = Agent("lamp", instructions="Be kind.", model=MODEL)
    first = Runner.run_sync(agent, HELLO)
    talk = [*first.to_input_list(), {"role": "user", "content": "thank you"}]
    return f"{first.final_output} | {Runner.run_sync(agent, talk).final_output}"


def langchain_responses(url: str) -> str:
    from langchain_openai import ChatOpenAI

    llm = ChatOpenAI(
        model=MODEL, base_url=url, api_key="none", temperature=0, use_responses_api=True
    )
    streamed = "".join(chunk.text for chunk in llm.stream(HELLO))
    return f"{llm.invoke(HELLO).text} | {streamed}"


def livekit(url: str) -> str:
    from livekit.agents import Agent, AgentSession
    from livekit.plugins import openai

    async def talk() -> str:
        llm = openai.LLM(model=MODEL, base_url=url, api_key="none")
        async with AgentSession(llm=llm) as session:
            await session.start(Agent(instructions="Be kind."))
            await session.generate_reply(instructions="Greet the user.")
            await session.run(user_input=HELLO)
            texts = [
                str(item.text_content) for item in session.history.items if item.type == "message"
            ]
        return " | ".join(texts)

    return asyncio.run(talk())


def pipecat(url: str) -> str:
    from pipecat.processors.aggregators.llm_context import LLMContext
    from pipecat.services.openai.llm import OpenAILLMService

    async def talk() -> str:
        service = OpenAILLMService(
            api_key="none", base_url=url, settings=OpenAILLMService.Settings(model=MODEL)
        )
        contexts = [
            [said("system", "Greet the user.")],
            [said("user", "hello"), said("assistant", "Hello."), said("developer", "Ask a name.")],
            [said("assistant", "Hello."), said("user", HELLO)],
        ]
        return " | ".join([str(await service.run_inference(LLMContext(each))) for each in contexts])

    return asyncio.run(talk())


if __name__ == "__main__":
    sys.stdout.write(globals()[sys.argv[1]](sys.argv[2]) + "\n")
