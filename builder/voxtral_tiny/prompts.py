"""Prompts around utterances: the token layouts of transcription and of conversation.

transcribe   <s> [INST] [BEGIN_AUDIO] audio [/INST] lang:en [TRANSCRIBE] text </s>
chat         <s> [INST] system text, audio or text [/INST] answer </s> [INST] ...
text only    <s> [SYSTEM_PROMPT] text [/SYSTEM_PROMPT] [INST] text [/INST] answer </s>
tools        <s> ... [AVAILABLE_TOOLS] json [/AVAILABLE_TOOLS] [INST] ... [/INST]
             [TOOL_CALLS] json </s> [TOOL_RESULTS] id [TOOL_CONTENT] text [/TOOL_RESULTS] ...
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from builder.voxtral_tiny.examples import ExampleMaker
from builder.voxtral_tiny.features import HeardUtterance
from builder.voxtral_tiny.tokenizer import (
    BEGIN_AUDIO,
    BOS,
    CALLS,
    CONTENT,
    END_INST,
    END_RESULTS,
    END_SYSTEM,
    END_TOOLS,
    EOS,
    INST,
    RESULTS,
    SYSTEM,
    TOOLS,
    TRANSCRIBE,
)
from builder.voxtral_tiny.tools import KNOWN, Json, ToolMaker, expected_call, written_call
from builder.voxtral_tiny.vocabulary import HEARD_NOTHING


@dataclass(frozen=True)
class Text:
    """Tokens of a prompt; those of an answer are learned."""

    ids: list[int]
    learned: bool = False


@dataclass(frozen=True)
class Window:
    """A place that takes the embeddings of one 30 s window, by its row in the batch."""

    row: int


Prompt = list[Text | Window]


@dataclass(frozen=True)
class Tree:
    """A beginning, and ways to continue from it, none of which sees another.

    Each branch is learned as if it stood alone behind the trunk, which is paid for once.
    """

    trunk: Prompt
    branches: list[Prompt]


Call = tuple[str, Json]
Heard = list[tuple[int, HeardUtterance]]


class PromptMaker:
    """Draws prompts around given utterances."""

    def __init__(self, maker: ExampleMaker, encode: Callable[[str], list[int]]) -> None:
        self._maker = maker
        self._random = maker.random
        self._encode = encode
        self._tools = ToolMaker(maker.random, maker.question)

    def prompt(self, heard: Heard, *, plain: bool) -> Prompt:
        """A transcription or a conversation that uses each utterance once.

        A plain one has no texts in addition to the utterances, so that a batch of them stays short.
        """
        if len(heard) <= 3 and self._random.random() < 0.5:
            return self._transcription(heard)
        if plain:
            return [Text([BOS]), *self._spoken_turn(heard, None, last=True, plain=True)]
        return self._conversation(heard)

    def text_prompt(self) -> Prompt:
        """A conversation without any audio."""
        prompt: Prompt = [Text([BOS])]
        if self._random.random() < 0.3:
            system = self._encode(self._maker.system_text())
            prompt.append(Text([SYSTEM, *system, END_SYSTEM]))
        turns = self._random.choice([1, 1, 1, 2, 3])
        for i in range(turns):
            prompt += self._text_turn(last=i == turns - 1)
        return prompt

    def tool_tree(self, heard: Heard) -> Tree:
        """One offer of tools behind a short history, and a turn with each of the utterances."""
        random = self._random
        trunk: Prompt = [Text([BOS])]
        if random.random() < 0.1:
            system = self._encode(self._maker.system_text())
            trunk.append(Text([SYSTEM, *system, END_SYSTEM]))
        for _ in range(random.choice([0, 0, 0, 0, 1, 2])):
            if random.random() < 0.5:
                trunk += self._past_call()
            elif random.random() < 0.6 and len(heard) > 1:
                before, heard = heard[:1], heard[1:]
                trunk += self._spoken_turn(before, None)
            else:
                trunk += self._text_turn()
        turns = [self._asked(*one) for one in heard]
        wanted = {call[0] for _, text, _ in turns for call in _calls(text, expected_call)}
        tools = self._tools.offer(wanted)
        trunk.append(Text(self._offer(tools)))
        branches: list[Prompt] = []
        for content, sentences, answer in turns:
            calls = _calls(sentences, lambda text: self._tools.call(text, tools))
            branch = [Text([INST]), *content, Text([END_INST]), *self._called(calls, answer)]
            branches.append(branch)
        return Tree(trunk, branches)

    def choice_tree(self, heard: Heard, typed: int) -> Tree:
        """One offer, and many turns behind it of which only the answer's first token is learned.

        That token says whether to call, which is the hardest to learn: the tool that a command
        asks for may be missing. For the price of one call this teaches ten decisions.
        """
        random = self._random
        brief = random.random() < 0.5
        share = random.choice([0.3, 0.5, 0.7])
        tools = self._tools.offer({*KNOWN}, share=share, brief=brief)
        branches: list[Prompt] = []
        for one in heard:
            branches.append(self._choice(*self._spoken(*one), tools))
        for _ in range(typed):
            command = random.random() < 0.7
            text, answer = self._maker.typed_command() if command else self._maker.text_turn()
            branches.append(self._choice([Text(self._encode(text))], (text,), answer, tools))
        return Tree([Text([BOS, *self._offer(tools)])], branches)

    def _choice(
        self, content: Prompt, sentences: tuple[str, ...], answer: str, tools: list[Json]
    ) -> Prompt:
        calls = _calls(sentences, lambda text: self._tools.call(text, tools))
        first = CALLS if calls else self._encode(answer)[0]
        return [Text([INST]), *content, Text([END_INST]), Text([first], learned=True)]

    def offered(self, tools: list[Json], content: Prompt) -> Prompt:
        """A user turn with the tools in front of it."""
        return [Text([*self._offer(tools), INST]), *content, Text([END_INST])]

    def results(self, calls: list[Call], *, learned: bool) -> Prompt:
        """Calls that were made, with their ids, what they returned, and the answer."""
        ids = [self._tools.call_id() for _ in calls]
        written = [written_call(*call, call_id) for call, call_id in zip(calls, ids, strict=True)]
        prompt: Prompt = [Text([CALLS, *self._encode(f"[{', '.join(written)}]"), EOS])]
        for call_id in ids:
            content, answer = self._tools.result()
            block = [*self._encode(call_id), CONTENT, *self._encode(content), END_RESULTS]
            prompt.append(Text([RESULTS, *block]))
        return [*prompt, Text([*self._encode(answer), EOS], learned=learned)]

    def _asked(self, row: int, utterance: HeardUtterance) -> tuple[Prompt, tuple[str, ...], str]:
        """A user turn, spoken or typed: its content, its sentences, the answer without tools."""
        if self._random.random() < 0.3:
            text, answer = (
                self._maker.typed_command() if utterance.asks else self._maker.text_turn()
            )
            return [Text(self._encode(text))], (text,), answer
        return self._spoken(row, utterance)

    def _spoken(self, row: int, utterance: HeardUtterance) -> tuple[Prompt, tuple[str, ...], str]:
        content: Prompt = [Text([BEGIN_AUDIO]), Window(row)]
        if self._random.random() < 0.05:
            content.insert(0, Text(self._encode(self._maker.system_text() + "\n\n")))
        return content, utterance.sentences, self._spoken_answer([(row, utterance)])

    def _called(self, calls: list[Call], answer: str) -> Prompt:
        if not calls:
            return [Text([*self._encode(answer), EOS], learned=True)]
        if self._random.random() < 0.2:
            return self.results(calls, learned=True)
        written = ", ".join(written_call(*call) for call in calls)
        return [Text([CALLS, *self._encode(f"[{written}]"), EOS], learned=True)]

    def _offer(self, tools: list[Json]) -> list[int]:
        return [TOOLS, *self._encode(json.dumps(tools, ensure_ascii=False)), END_TOOLS]

    def _past_call(self) -> Prompt:
        """An exchange of the history in which a tool was called."""
        while True:
            text, _ = self._maker.typed_command()
            if call := expected_call(text):
                asked = Text([INST, *self._encode(text), END_INST])
                return [asked, *self.results([call], learned=False)]

    def _transcription(self, heard: Heard) -> Prompt:
        language = self._encode("lang:en") if self._random.random() < 0.4 else []
        return [
            Text([BOS, INST, BEGIN_AUDIO]),
            *(Window(row) for row, _ in heard),
            Text([END_INST, *language, TRANSCRIBE]),
            Text([*self._encode(_text(heard)), EOS], learned=True),
        ]

    def _conversation(self, heard: Heard) -> Prompt:
        random = self._random
        prompt: Prompt = [Text([BOS])]
        system = None
        if random.random() < 0.15:
            system = Text(self._encode(self._maker.system_text() + "\n\n"))
        left = list(heard)
        while left:
            if random.random() < 0.2:
                prompt += self._text_turn(system)
                system = None
            count = random.choice([2, 2, 3]) if random.random() < 0.12 else 1
            now, left = left[:count], left[count:]
            prompt += self._spoken_turn(now, system, last=not left)
            system = None
        if random.random() < 0.15:
            prompt += self._text_turn()
        return prompt

    def _spoken_turn(
        self, heard: Heard, system: Text | None, *, last: bool = False, plain: bool = False
    ) -> Prompt:
        random = self._random
        prompt: Prompt = [Text([INST])]
        if system is not None:
            prompt.append(system)
        elif not plain and random.random() < 0.05:
            prompt.append(Text(self._encode(self._maker.question())))
        # Several windows are one long audio, or an audio each.
        separate = random.random() < 0.4
        for i, (row, _) in enumerate(heard):
            if i == 0 or separate:
                prompt.append(Text([BEGIN_AUDIO]))
            prompt.append(Window(row))
        if not plain and random.random() < 0.12:
            prompt.append(Text(self._encode(self._maker.question())))
        return [*prompt, Text([END_INST]), *self._answer(self._spoken_answer(heard), last=last)]

    def _spoken_answer(self, heard: Heard) -> str:
        text = _text(heard)
        return f"You said: {text}" if text else HEARD_NOTHING

    def _text_turn(self, system: Text | None = None, *, last: bool = False) -> Prompt:
        text, answer = self._maker.text_turn()
        opening: Prompt = [Text([INST])] if system is None else [Text([INST]), system]
        return [
            *opening,
            Text([*self._encode(text), END_INST]),
            *self._answer(answer, last=last),
        ]

    def _answer(self, answer: str, *, last: bool) -> Prompt:
        tokens = [*self._encode(answer), EOS]
        chance = self._random.random()
        if not last and chance < 0.1:
            # An answer that was interrupted ends early in the history.
            return [Text([*tokens[: self._random.randrange(len(tokens))], EOS])]
        if not last and chance < 0.15:
            # A history may hold what this model would never have said.
            return [Text([*self._encode(self._maker.question()), EOS])]
        return [Text(tokens, learned=True)]


def _text(heard: Heard) -> str:
    return " ".join(utterance.text for _, utterance in heard if utterance.text)


def _calls(sentences: tuple[str, ...], call_of: Callable[[str], Call | None]) -> list[Call]:
    return [call for text in sentences if (call := call_of(text))]
