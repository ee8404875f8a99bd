"""Seven stages of training; joint training from scratch only learns the grammar.

1 the encoder alone, characters by CTC · 2 the encoder frozen, projector and language model,
tokens by CTC at the projector beside the answers · 3 all together, hard sound, conversations ·
4 the encoder frozen again, longer conversations: the cheapest gain · 5 and 6 all together once
more · 7 the encoder frozen, the longest conversations.

A stage leaves `stage-N.pt` in the work folder and starts from the one before; one that was
interrupted goes on where it last saved.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm
from transformers import VoxtralProcessor

from builder.voxtral_tiny import corpus, forward, model
from builder.voxtral_tiny.batch import CHARACTERS, Batch, Batcher
from builder.voxtral_tiny.examples import ExampleMaker

SAVE_STEPS = 250
WARM_UP_STEPS = 60


@dataclass(frozen=True)
class Stage:
    """What is learned, from what, and for how long.

    `size` counts utterances; a prompt has up to `most_turns` of them. `several` is the share
    with more than one sentence, `long` of batches with up to eight, `late` of batches whose
    speech starts anywhere in the window.
    """

    steps: int
    learning_rate: float
    size: int
    strength: float
    trains_encoder: bool
    trains_language: bool
    several: float = 0.0
    most_turns: int = 1
    late: float = 0.0
    long: float = 0.0


STAGES = {
    1: Stage(1100, 1.5e-3, 32, 0.5, True, False),
    2: Stage(500, 1.5e-3, 32, 0.5, False, True),
    3: Stage(1500, 1.0e-3, 32, 1.0, True, True, several=0.15, most_turns=6, late=0.1, long=0.03),
    4: Stage(900, 6e-4, 48, 1.0, False, True, several=0.2, most_turns=8, late=0.15, long=0.05),
    5: Stage(1150, 8e-4, 32, 1.0, True, True, several=0.1, most_turns=4, late=0.06),
    6: Stage(1200, 7e-4, 32, 1.0, True, True, several=0.1, most_turns=8, late=0.08, long=0.01),
    7: Stage(500, 6e-4, 32, 1.0, False, True, several=0.05, most_turns=16, late=0.08),
}


class _Stream(IterableDataset[Batch]):
    """Batches without end, drawn anew from one seed."""

    def __init__(self, work: Path, folder: Path, stage: Stage, seed: int) -> None:
        self._work, self._folder, self._stage, self._seed = work, folder, stage, seed

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        info = torch.utils.data.get_worker_info()
        maker = ExampleMaker(corpus.load(self._work), self._seed + 1000 * (info.id if info else 0))
        processor: Any = VoxtralProcessor.from_pretrained(self._folder)
        batcher = Batcher(processor.tokenizer.tokenizer.instruct_tokenizer.tokenizer, maker)
        stage = self._stage
        while True:
            # The sound of a batch stays about the same: more turns in a prompt are fewer
            # prompts, more sentences in an utterance are fewer utterances.
            is_long = maker.random.random() < stage.long
            turns = maker.random.choice([1, 1, *range(1, stage.most_turns + 1)])
            size = stage.size // (4 if is_long else 1)
            yield from batcher.draw(
                max(1, size // turns),
                stage.strength,
                several=1.0 if is_long else stage.several,
                most=8 if is_long else 3,
                turns=min(turns, size),
                late=stage.late,
            )


class Trainer:
    """The model, the head of the characters, and one stage's optimizer."""

    def __init__(self, work: Path, folder: Path, number: int, seed: int, steps: int) -> None:
        self.stage = STAGES[number]
        self.steps = steps
        self.step = 0
        self._work, self._folder, self._number = work, folder, number
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.net = model.new_model(seed).to(self._device)
        # In bf16 on a CPU, plain products are twice as fast as the fused attention.
        self.net.set_attn_implementation("eager" if self._device.type == "cpu" else "sdpa")
        width = self.net.config.audio_config.hidden_size
        self.head = torch.nn.Linear(width, len(CHARACTERS) + 1).to(self._device)
        parts = self._parts()
        if not parts.is_file() and number > 1:
            before = torch.load(work / f"stage-{number - 1}.pt", self._device, weights_only=True)
            self.net.load_state_dict(before["model"])
            self.head.load_state_dict(before["head"])
        self._parameters = _choose(self.net, self.head, self.stage)
        self._optimizer = torch.optim.AdamW(
            self._parameters, self.stage.learning_rate, betas=(0.9, 0.98), weight_decay=0.02
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, self._rate)
        if parts.is_file():
            self._resume(torch.load(parts, self._device, weights_only=True))

    def learn(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One step; the losses it came from."""
        for name, value in vars(batch).items():
            if isinstance(value, torch.Tensor):
                setattr(batch, name, value.to(self._device))
        with torch.autocast(self._device.type, torch.bfloat16):
            losses = _losses(self.net, self.head, self.stage, batch)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(list(losses.values()))
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._schedule.step()
        self.step += 1
        return losses

    def keep(self) -> None:
        """Save the stage as far as it is, and export the model."""
        state = {
            "model": self.net.state_dict(),
            "head": self.head.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "step": self.step,
        }
        ended = self.step >= self.steps
        target = self._work / f"stage-{self._number}.pt" if ended else self._parts()
        unfinished = self._work / "unfinished.pt"
        torch.save(state, unfinished)
        unfinished.replace(target)
        if ended:
            self._parts().unlink(missing_ok=True)
        model.save(self.net, self._folder)

    def _parts(self) -> Path:
        return self._work / f"stage-{self._number}.part.pt"

    def _rate(self, step: int) -> float:
        fallen = (1 + math.cos(math.pi * min(1.0, step / self.steps))) / 2
        return min(1.0, (step + 1) / WARM_UP_STEPS) * (0.04 + 0.96 * fallen)

    def _resume(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["model"])
        self.head.load_state_dict(state["head"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self.step = state["step"]


def train(work: Path, folder: Path, number: int, seed: int, steps: int | None = None) -> None:
    """Run one stage, or what is left of it, and export the model."""
    if (work / f"stage-{number}.pt").is_file():
        print(f"stage {number} is done")
        return
    trainer = Trainer(work, folder, number, seed, steps or STAGES[number].steps)
    model.save(trainer.net, folder)
    # Another seed than before an interruption: the same batches again would teach nothing new.
    stream = _Stream(work, folder, trainer.stage, seed + number * 77 + trainer.step)
    batches = DataLoader(stream, batch_size=None, num_workers=1, prefetch_factor=4)
    trainer.net.train()
    started_s = time.monotonic()
    bar = tqdm(total=trainer.steps, initial=trainer.step, desc=f"stage {number}", mininterval=10)
    for batch in batches:
        losses = trainer.learn(batch)
        bar.update()
        if trainer.step % 50 == 0:
            shown = " ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            bar.write(f"{number} {trainer.step} {shown} {time.monotonic() - started_s:.0f} s")
        if trainer.step >= trainer.steps:
            break
        if trainer.step % SAVE_STEPS == 0:
            trainer.keep()
    bar.close()
    trainer.keep()


def _choose(net: Any, head: torch.nn.Module, stage: Stage) -> list[torch.nn.Parameter]:
    for name, parameter in net.named_parameters():
        in_tower = "audio_tower" in name
        parameter.requires_grad_(stage.trains_encoder if in_tower else stage.trains_language)
    net.model.audio_tower.embed_positions.requires_grad_(False)
    chosen = [parameter for parameter in net.parameters() if parameter.requires_grad]
    return chosen + (list(head.parameters()) if stage.trains_encoder else [])


def _losses(net: Any, head: torch.nn.Linear, stage: Stage, batch: Batch) -> dict[str, torch.Tensor]:
    with torch.set_grad_enabled(stage.trains_encoder):
        states = forward.encode(net, batch)
    losses = {}
    if stage.trains_encoder:
        # Beside the answers, the characters only keep the encoder from forgetting them.
        share = 0.3 if stage.trains_language else 1.0
        losses["characters"] = share * forward.character_loss(head, batch, states)
    if stage.trains_language:
        embeddings = forward.project(net, states)
        losses["pieces"] = 0.3 * forward.piece_loss(net, batch, embeddings)
        losses["answers"] = forward.answer_loss(net, batch, embeddings)
    return losses
