"""Training on top of a frozen encoder, in five stages.

1 the projector alone, tokens by CTC through the head of the language model as it was: a tenth of
the price · 2 projector and language model, CTC and answers · 3 the same, slower · 4 mostly tools,
many turns behind each offer · 5 long conversations again, with tools.

A stage leaves `stage-N.pt` in the work folder and starts from the one before, or from a folder's
weights where there is none; one that was interrupted continues where it last saved. The folder gets
the mean of the latest weights. Several processes share the work where they are started with
torch's variables for that (`RANK`, `WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT`), as `torchrun` does.
"""

import copy
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import distributed
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm
from transformers import VoxtralProcessor

from builder.voxtral_tiny import features, forward, model, whisper
from builder.voxtral_tiny.batch import Batch, Batcher
from builder.voxtral_tiny.examples import ExampleMaker
from builder.voxtral_tiny.probe import Probe
from builder.voxtral_tiny.tokenizer import Tokenizer

SAVE_STEPS = 150
WARM_UP_STEPS = 40
# Of the steps of a stage, those in which its rate falls.
FALL = 0.6
MEAN_DECAY = 0.997
TOOL_OFFERS, TOOL_TURNS = 3, 10
# Of the batches with tools, those that teach nothing but whether to call.
CHOICES = 0.5
CHOICE_OFFERS, CHOICE_TURNS = 6, 5


@dataclass(frozen=True)
class Stage:
    """What is learned, and for how long.

    `size` counts utterances, of which a prompt has up to `most_turns`; `tools` is the share of
    batches that offer tools.
    """

    steps: int
    learning_rate: float
    trains_language: bool
    size: int = 32
    most_turns: int = 1
    tools: float = 0.0


STAGES = {
    1: Stage(500, 2e-3, trains_language=False, size=48),
    2: Stage(1800, 1.2e-3, trains_language=True, most_turns=8, tools=0.2),
    3: Stage(1200, 6e-4, trains_language=True, most_turns=20, tools=0.2),
    4: Stage(2550, 1e-3, trains_language=True, most_turns=6, size=20, tools=0.66),
    5: Stage(200, 5e-4, trains_language=True, most_turns=20, size=24, tools=0.45),
}


class _Stream(IterableDataset[Batch]):
    """Batches without end, drawn from one seed; new features are used as they are made."""

    def __init__(self, work: Path, folder: Path, stage: Stage, seed: int) -> None:
        self._work, self._folder, self._stage, self._seed = work, folder, stage, seed

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        maker = ExampleMaker([], self._seed)
        batcher = Batcher(tokenizer_of(self._folder), maker)
        stage, rng = self._stage, maker.random
        while True:
            heard = features.load_features(self._work)
            for _ in range(30):
                # So many with tools for each without keep their share.
                offers = stage.tools / (1 - stage.tools)
                turns = rng.choice([1, 1, *range(1, stage.most_turns + 1)])
                for batch in batcher.draw(heard, stage.size // turns * turns, turns):
                    for _ in range(int(offers + rng.random())):
                        if rng.random() < CHOICES:
                            yield batcher.draw_choices(heard, CHOICE_OFFERS, CHOICE_TURNS)
                        else:
                            yield batcher.draw_tools(heard, TOOL_OFFERS, TOOL_TURNS)
                    yield batch


class Trainer:
    """The model, the mean of its latest weights, and one stage's optimizer."""

    def __init__(self, work: Path, folder: Path, start: Path, number: int, seed: int) -> None:
        self.stage = STAGES[number]
        self.step = 0
        self._work, self._folder, self._number = work, folder, number
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        variables = whisper.read_variables(whisper.fetch(work))
        self.net = model.new_model(seed, whisper.encoder_state(variables)).to(self._device)
        parts, before = self._parts(), work / f"stage-{number - 1}.pt"
        if before.is_file():
            mean = torch.load(before, self._device, weights_only=True)["mean"]
            self.net.load_state_dict(mean, strict=False)
        else:
            _start_from(self.net, start, projector=number > 1)
        for name, parameter in self.net.named_parameters():
            learned = "multi_modal_projector" in name or self.stage.trains_language
            parameter.requires_grad_(learned and "audio_tower" not in name)
        self._learned = {n: p for n, p in self.net.named_parameters() if p.requires_grad}
        self._mean = {
            name: value.detach().clone()
            for name, value in self.net.named_parameters()
            if "audio_tower" not in name
        }
        self._optimizer = torch.optim.AdamW(
            self._learned.values(), self.stage.learning_rate, betas=(0.9, 0.98), weight_decay=0.02
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, self._rate)
        if parts.is_file():
            self._resume(torch.load(parts, self._device, weights_only=True))

    def learn(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One step; the losses it came from."""
        for name, value in vars(batch).items():
            setattr(batch, name, value.to(self._device))
        # Half the price of float32 where the processor knows bfloat16.
        with torch.autocast(self._device.type, torch.bfloat16):
            embeddings = self.net.model.multi_modal_projector(batch.states)
            losses = {"pieces": forward.piece_loss(self.net, batch, embeddings)}
            if self.stage.trains_language:
                losses["pieces"] = 0.3 * losses["pieces"]
                losses["answers"] = forward.answer_loss(self.net, batch, embeddings)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(list(losses.values()))
        if distributed.is_initialized():
            flat = torch.cat([parameter.grad.flatten() for parameter in self._learned.values()])
            distributed.all_reduce(flat)
            flat /= distributed.get_world_size()
            torch.nn.utils.vector_to_parameters(flat, [p.grad for p in self._learned.values()])
        torch.nn.utils.clip_grad_norm_(self._learned.values(), 1.0)
        self._optimizer.step()
        self._schedule.step()
        self.step += 1
        decay = min(MEAN_DECAY, self.step / (self.step + 20))
        for name, value in self._learned.items():
            self._mean[name].lerp_(value.detach(), 1 - decay)
        return losses

    def keep(self) -> None:
        """Save the stage as far as it is, and export the mean."""
        state = {
            "model": {n: p for n, p in self.net.named_parameters() if "audio_tower" not in n},
            "mean": self._mean,
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "step": self.step,
        }
        if _rank() > 0:
            return
        ended = self.step >= self.stage.steps
        target = self._work / f"stage-{self._number}.pt" if ended else self._parts()
        unfinished = self._work / "unfinished.pt"
        torch.save(state, unfinished)
        unfinished.replace(target)
        if ended:
            self._parts().unlink(missing_ok=True)
        model.save({**self.net.state_dict(), **self._mean}, self._folder)

    def measure(self, probe: Probe) -> dict[str, float]:
        """What the mean of the latest weights does in the probe."""
        net = copy.deepcopy(self.net).eval()
        net.load_state_dict(self._mean, strict=False)
        return probe.measure(net)

    def _parts(self) -> Path:
        return self._work / f"stage-{self._number}.part.pt"

    def _rate(self, step: int) -> float:
        left = max(0.0, 1 - step / self.stage.steps)
        return min(1.0, (step + 1) / WARM_UP_STEPS) * max(0.03, min(1.0, left / FALL))

    def _resume(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["model"], strict=False)
        self._mean = state["mean"]
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self.step = state["step"]


def _rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def _start_from(net: Any, folder: Path, *, projector: bool) -> None:
    """Let the language model continue from the folder's, where it has one of this shape."""
    path = folder / "model.safetensors"
    before = load_file(path) if path.is_file() else {}
    names = {
        "language_model.lm_head.weight": "lm_head.weight",
        "language_model.model.": "model.language_model.",
    }
    if projector:
        names["multi_modal_projector."] = "model.multi_modal_projector."
    renamed = {
        new + name.removeprefix(old): value.float()
        for name, value in before.items()
        for old, new in names.items()
        if name.startswith(old)
    }
    _, unknown = net.load_state_dict(renamed, strict=False)
    print(f"the model starts from {len(renamed)} weights of {folder}; unknown: {unknown}")


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer of a folder that has been written."""
    processor: Any = VoxtralProcessor.from_pretrained(folder)
    found: Tokenizer = processor.tokenizer.tokenizer.instruct_tokenizer.tokenizer
    return found


def train(work: Path, folder: Path, start: Path, number: int, seed: int) -> None:
    """Run one stage, or what is left of it, and export the model.

    The first stage starts from the language model in the folder `start`.
    """
    if (work / f"stage-{number}.pt").is_file():
        print(f"stage {number} is done")
        return
    if "WORLD_SIZE" in os.environ and not distributed.is_initialized():
        distributed.init_process_group("gloo")
    trainer = Trainer(work, folder, start, number, seed)
    if _rank() == 0:
        model.save(trainer.net.state_dict(), folder)
    if distributed.is_initialized():
        distributed.barrier()
    # Another seed than before an interruption: the same batches again would teach nothing new.
    stream = _Stream(work, folder, trainer.stage, seed + number * 77 + trainer.step + 7 * _rank())
    batches = DataLoader(stream, batch_size=None, num_workers=1, prefetch_factor=4)
    trainer.net.train()
    features.make_held_out(work, seed)
    probe = Probe(
        Batcher(tokenizer_of(folder), ExampleMaker([], seed)),
        features.load_features(work, "held-out"),
    )
    started_s = time.monotonic()
    steps = trainer.stage.steps
    bar = tqdm(total=steps, initial=trainer.step, desc=f"stage {number}", mininterval=10)
    for batch in batches:
        losses = trainer.learn(batch)
        bar.update()
        if trainer.step % 25 == 0:
            shown = " ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            bar.write(f"{number} {trainer.step} {shown} {time.monotonic() - started_s:.0f} s")
        if trainer.step >= steps:
            break
        if trainer.step % SAVE_STEPS == 0:
            trainer.keep()
            bar.write(_shown(trainer.measure(probe)))
    bar.close()
    trainer.keep()
    print(_shown(trainer.measure(probe)))


def _shown(rates: dict[str, float]) -> str:
    return " · ".join(f"{name} {100 * rate:.1f} %" for name, rate in sorted(rates.items()))
