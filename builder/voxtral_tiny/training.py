"""Four stages of training; joint training from scratch only learns the grammar.

1 the encoder alone, characters by CTC · 2 the encoder frozen, projector and language model,
tokens by CTC at the projector beside the answers · 3 all together, hard sound, many turns ·
4 the encoder frozen again, hard sound: the cheapest gain.
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


@dataclass(frozen=True)
class Stage:
    """What is learned, from what, and for how long."""

    steps: int
    learning_rate: float
    size: int
    strength: float
    trains_encoder: bool
    trains_language: bool
    several: float = 0.0
    most_turns: int = 1


STAGES = {
    1: Stage(1100, 1.5e-3, 32, 0.5, True, False),
    2: Stage(500, 1.5e-3, 32, 0.5, False, True),
    3: Stage(1500, 1.0e-3, 30, 1.0, True, True, several=0.25, most_turns=3),
    4: Stage(600, 5e-4, 30, 1.0, False, True, several=0.3, most_turns=4),
}


class _Stream(IterableDataset[Batch]):
    def __init__(self, work: Path, folder: Path, stage: Stage, seed: int) -> None:
        self._work, self._folder, self._stage, self._seed = work, folder, stage, seed

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        info = torch.utils.data.get_worker_info()
        seed = self._seed + 1000 * (info.id if info else 0)
        maker = ExampleMaker(corpus.load(self._work), seed)
        processor = VoxtralProcessor.from_pretrained(self._folder)
        tokenizer = processor.tokenizer.tokenizer.instruct_tokenizer.tokenizer
        batcher = Batcher(tokenizer, maker)
        stage = self._stage
        while True:
            # More turns in a prompt are fewer prompts: the audio of a batch stays the same.
            turns = maker.random.choice([1, 1, *range(1, stage.most_turns + 1)])
            yield batcher.draw(
                stage.size // turns, stage.strength, several=stage.several, turns=turns
            )


def train(work: Path, folder: Path, number: int, seed: int, steps: int | None = None) -> None:
    """Run one stage from the last one's checkpoint, and export the model."""
    stage = STAGES[number]
    steps = steps or stage.steps
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = model.new_model(seed)
    head = torch.nn.Linear(net.config.audio_config.hidden_size, len(CHARACTERS) + 1)
    checkpoint = work / "checkpoint.pt"
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["model"])
        head.load_state_dict(state["head"])
    model.save(net, folder)
    net.to(device), head.to(device)
    parameters = _choose(net, head, stage)
    optimizer = torch.optim.AdamW(parameters, lr=stage.learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            min(1.0, (step + 1) / 60) * (0.04 + 0.96 * (1 + math.cos(math.pi * step / steps)) / 2)
        ),
    )
    batches = DataLoader(
        _Stream(work, folder, stage, seed + number * 77), batch_size=None, num_workers=1,
        prefetch_factor=4,
    )  # fmt: skip
    net.train()
    started_s, bar = time.monotonic(), tqdm(total=steps, desc=f"stage {number}", mininterval=10)
    for step, batch in enumerate(batches):
        if step == steps:
            break
        _to(batch, device)
        losses = _losses(net, head, stage, batch)
        loss = sum(losses.values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        bar.update()
        if step % 50 == 49:
            shown = " ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            print(f"\nstage {number} step {step + 1} {shown} {time.monotonic() - started_s:.0f} s")
        if step % 250 == 249:
            _keep(net, head, work, folder)
    bar.close()
    _keep(net, head, work, folder)


def _choose(net: Any, head: torch.nn.Module, stage: Stage) -> list[torch.nn.Parameter]:
    tower = net.model.audio_tower
    for name, parameter in net.named_parameters():
        in_tower = "audio_tower" in name
        trained = stage.trains_encoder if in_tower else stage.trains_language
        parameter.requires_grad_(trained)
    tower.embed_positions.requires_grad_(False)
    chosen = [parameter for parameter in net.parameters() if parameter.requires_grad]
    return chosen + (list(head.parameters()) if stage.trains_encoder else [])


def _losses(
    net: Any, head: torch.nn.Linear, stage: Stage, batch: Batch
) -> dict[str, torch.Tensor]:
    with torch.set_grad_enabled(stage.trains_encoder):
        states = forward.encode(net, batch)
    losses = {}
    if stage.trains_encoder:
        losses["characters"] = forward.character_loss(head, batch, states)
        if stage.trains_language:
            losses["characters"] = 0.3 * losses["characters"]
    if stage.trains_language:
        embeddings = forward.project(net, states)
        losses["pieces"] = 0.3 * forward.piece_loss(net, batch, embeddings)
        losses["answers"] = forward.answer_loss(net, batch, embeddings)
    return losses


def _to(batch: Batch, device: torch.device) -> None:
    for name, value in vars(batch).items():
        setattr(batch, name, value.to(device))


def _keep(net: Any, head: torch.nn.Module, work: Path, folder: Path) -> None:
    part = work / "checkpoint.part"
    torch.save({"model": net.state_dict(), "head": head.state_dict()}, part)
    part.replace(work / "checkpoint.pt")
    model.save(net, folder)
