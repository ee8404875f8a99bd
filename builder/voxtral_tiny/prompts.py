"""Prompts around utterances: the token layouts of transcription and of conversation.

transcribe   <s> [INST] [BEGIN_AUDIO] audio [/INST] lang:en [TRANSCRIBE] text </s>
chat         <s> [INST] system text, audio or text [/INST] answer </s> [INST] ...
text only    <s> [SYSTEM_PROMPT] text [/SYSTEM_PROMPT] [INST] text [/INST] answer </s>
"""

from collections.abc import Callable
from dataclasses import dataclass

from builder.voxtral_tiny.examples import ExampleMaker, Utterance
from builder.voxtral_tiny.tokenizer import (
    BEGIN_AUDIO,
    BOS,
    END_INST,
    END_SYSTEM,
    EOS,
    INST,
    SYSTEM,
    TRANSCRIBE,
)
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
Heard = list[tuple[int, Utterance]]


class PromptMaker:
    """Draws prompts around given utterances."""

    def __init__(self, maker: ExampleMaker, encode: Callable[[str], list[int]]) -> None:
        self._maker = maker
        self._random = maker.random
        self._encode = encode

    def prompt(self, heard: Heard, *, plain: bool) -> Prompt:
        """A transcription or a conversation that uses each utterance once.

        A plain one has no texts beside the utterances, so that a batch of them stays short.
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
        self, heard: Heard, system: Text | None, *, last: bool, plain: bool = False
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
        text = _text(heard)
        answer = f"You said: {text}" if text else HEARD_NOTHING
        return [*prompt, Text([END_INST]), *self._answer(answer, last=last)]

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
