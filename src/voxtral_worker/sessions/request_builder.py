"""Makes the engine's requests of a conversation, and says how much room their answers need."""

from voxtral_worker.engine.conversation import (
    TRANSCRIPT_TOKENS_PER_WINDOW,
    WINDOW_SAMPLES,
    Audio,
    Conversation,
    Exchange,
    Round,
    UserTurn,
)
from voxtral_worker.engine.request import GenerationRequest, Sampling, Urgency
from voxtral_worker.engine.tools import NO_TOOLS
from voxtral_worker.sessions.calling import toolbox_of_round
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Generate
from voxtral_worker.sessions.history import History
from voxtral_worker.sessions.memory import TOKEN_BYTES, bytes_of_text, bytes_of_tools
from voxtral_worker.sessions.turn import Turn


class RequestBuilder:
    """A request depends on the options, the history and the turn alone."""

    def __init__(self, owner: str, config: SessionConfig, history: History) -> None:
        """`owner`: the session's id. The engine reuses work among requests of one owner only."""
        self.config = config
        self._owner = owner
        self._history = history

    @property
    def bytes(self) -> int:
        """Size of the options that are part of the prompts."""
        return bytes_of_options(self.config)

    def request(
        self,
        user: UserTurn,
        urgency: Urgency,
        *,
        is_audio: bool,
        config: SessionConfig | None = None,
        history: tuple[Exchange, ...] | None = None,
        rounds: tuple[Round, ...] = (),
    ) -> GenerationRequest:
        """The engine request that would answer this turn now.

        `config`, `history` and `rounds` replace the session's; without them the request is for
        the conversation so far.
        """
        config = config or self.config
        transcribes = config.mode == "transcribe" and is_audio
        said = tuple(self._history) if history is None else history
        box = NO_TOOLS if transcribes else toolbox_of_round(config.toolbox, len(rounds))
        conversation = Conversation(
            user,
            () if transcribes else said,
            config.system_prompt,
            transcribes,
            config.language,
            rounds,
            box,
        )
        sampling = _sampling(config, user, transcribes=transcribes)
        return GenerationRequest(conversation, sampling, urgency, self._owner)

    def generate(self, turn: Turn) -> Generate:
        """Ask for the next response of a turn."""
        request = self.request(
            turn.user,
            Urgency.TURN,
            is_audio=turn.source == "audio",
            config=turn.own.config,
            history=turn.own.history,
            rounds=turn.rounds,
        )
        return Generate(turn.response.generation_id, request)

    def bytes_to_answer(self, samples: int = 0, config: SessionConfig | None = None) -> int:
        """Most bytes that an answer may take: to `samples` of sound, or to a text."""
        config = config or self.config
        transcribes = config.mode == "transcribe" and samples > 0
        windows = max(1, -(-samples // WINDOW_SAMPLES))
        return _most_tokens(config, windows, transcribes=transcribes) * TOKEN_BYTES

    def bytes_to_answer_turn(self, turn: Turn, config: SessionConfig | None = None) -> int:
        """Most bytes that the answer to a turn may take with these options of the session."""
        config = turn.own.config or config or self.config
        transcribes = config.mode == "transcribe" and turn.source == "audio"
        return answer_bytes(_sampling(config, turn.user, transcribes=transcribes))


def answer_bytes(sampling: Sampling) -> int:
    """Most bytes that an answer may take."""
    return sampling.max_tokens * TOKEN_BYTES


def bytes_of_options(config: SessionConfig) -> int:
    """Size of the system prompt and the tools."""
    return bytes_of_text(config.system_prompt) + bytes_of_tools(config.tools)


def _sampling(config: SessionConfig, user: UserTurn, *, transcribes: bool) -> Sampling:
    temperature = config.temperature
    if transcribes and "temperature" not in config.given:
        # The model card recommends temperature 0.2 for chat and 0 for transcription.
        temperature = 0.0
    windows = sum(part.windows for part in user.parts if isinstance(part, Audio))
    most_tokens = _most_tokens(config, windows, transcribes=transcribes)
    return Sampling(temperature, config.top_p, most_tokens, config.stop, config.seed)


def _most_tokens(config: SessionConfig, windows: int, *, transcribes: bool) -> int:
    if transcribes and "max_length" not in config.given:
        return TRANSCRIPT_TOKENS_PER_WINDOW * windows
    return config.max_length
