"""An existing VLM under training: its loss, its update, its loop, and the checkpoint that it becomes.

    full  every weight learns
    lora  the weights stay; small matrices beside them learn, and are added to them at the end

The questions about labelled frames are those that a VLM from scratch learns; here they go through any family.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub import snapshot_download
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from pr2l.core.errors import UserError
from pr2l.core.types import Frames
from pr2l.data.labelled_frames import LabelledFrames, Source
from pr2l.data.questions import Question
from pr2l.pretraining import shared
from pr2l.pretraining.shared import Course, Report, draw, pick_questions
from pr2l.vlms.base import IGNORE_INDEX, VLM, Defaults
from pr2l.vlms.checkpoint import locate
from pr2l.vlms.loading import load_vlm
from pr2l.vlms.lora import Lora, add_lora, save_lora

Lesson = tuple[Frames, Question]  # a frame uint8 [H, W, 3] and what is asked of it
BESIDE_WEIGHTS = ("*.json", "*.txt", "*.model", "*.jinja")  # config, tokenizer, processors, chat template


class FinetuneConfig(BaseModel):
    """Everything that defines one fine-tuning."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    why: str
    vlm: str  # "tiny", a local folder or a Hub id
    vlm_options: Defaults = Field(default_factory=Defaults)  # as in the runs that will use it: image_size above all
    method: Literal["lora", "full"] = "lora"  # lora takes a fraction of the memory, and forgets less
    lora: Lora = Field(default_factory=Lora)
    train: tuple[Source, ...]  # what is played for training
    test: tuple[Source, ...]  # what the exams before and after are on: other rooms, other seeds
    steps: PositiveInt
    batch: PositiveInt = 16  # questions a step, each about a frame of its own
    rate: PositiveFloat | None = None  # peak learning rate; None = 2e-4 for lora, 1e-5 for full, which drifts easily
    weight_decay: NonNegativeFloat = 0.0  # it would pull the weights away from what they knew
    seed: NonNegativeInt = 0
    threads: PositiveInt = 2  # of torch, on a CPU

    @property
    def course(self) -> Course:
        return Course(
            f"fine-tuning ({self.method})", self.steps, self.rate or {"lora": 2e-4, "full": 1e-5}[self.method]
        )


@dataclass
class Trainee:
    """The VLM under training; adapted: peft's view of the same model with its adapter, None if every weight learns."""

    vlm: VLM
    adapted: Any = None

    def learning(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name."""
        return {name: weight for name, weight in self.vlm.model.named_parameters() if weight.requires_grad}


# Losses.


def answer_loss(vlm: VLM, lessons: Sequence[Lesson]) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the answers' tokens and ends, given the frame, the question and the tokens before."""
    frames = np.stack([frame for frame, _ in lessons])
    asked = [question for _, question in lessons]
    inputs, targets = vlm.training_inputs(frames, [each.text for each in asked], [each.answer for each in asked])
    logits = vlm.model(**inputs).logits.float()
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX)
    right = ((logits.argmax(-1) == targets) | (targets == IGNORE_INDEX)).all(1).float().mean().item()
    return loss, {"answer_loss": loss.item(), "right": right}


# Update and loop.


def train(
    trainee: Trainee, sets: Sequence[LabelledFrames], config: FinetuneConfig, folder: Path, report: Report
) -> None:
    """All steps, from the last checkpoint in `folder` if there is one; Ctrl-C saves one more and passes on."""
    learning = trainee.learning()
    optimizer = torch.optim.AdamW(learning.values(), lr=config.course.rate, weight_decay=config.weight_decay)
    first = _restore(learning, optimizer, folder)
    trainee.vlm.model.train()
    step = partial(_one_step, trainee.vlm, optimizer, list(learning.values()), sets, config)
    shared.run(config.course, first, step, partial(_save, learning, optimizer, folder), report)
    trainee.vlm.model.eval()


def _one_step(
    vlm: VLM,
    optimizer: torch.optim.Optimizer,
    learning: Sequence[nn.Parameter],
    sets: Sequence[LabelledFrames],
    config: FinetuneConfig,
    step: int,
) -> dict[str, float]:
    rng = np.random.default_rng((config.seed, step))
    torch.manual_seed(int(rng.integers(1 << 62)))  # dropout too is drawn from the step's own number
    on_gpu = vlm.model.device.type == "cuda"
    with torch.autocast(vlm.model.device.type, torch.bfloat16, enabled=on_gpu and config.vlm_options.dtype == "auto"):
        loss, metrics = answer_loss(vlm, draw_lessons(sets, config.batch, rng))
    shared.update(optimizer, learning, loss, config.course.rate_at(step))
    return metrics


def draw_lessons(sets: Sequence[LabelledFrames], count: int, rng: np.random.Generator) -> list[Lesson]:
    """Random frames, each with one question; frames that show nothing clearly enough to ask about are passed over."""
    names = sorted({name for part in sets for name in part.names})
    lessons: list[Lesson] = []
    while len(lessons) < count:
        batch = draw(sets, count - len(lessons), rng)
        for frame, view in zip(batch.frames, batch.views(), strict=True):
            lessons += [(frame, question) for question in pick_questions(view, names, 1, rng)]
    return lessons


def _save(learning: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, folder: Path, step: int) -> None:
    shared.save(folder, {f"learning/{name}": weight for name, weight in learning.items()}, optimizer, [step])


@torch.no_grad()
def _restore(learning: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, folder: Path) -> int:
    """Steps done; 0 without a checkpoint."""
    if (found := shared.restore(folder, optimizer)) is None:
        return 0
    (step,), tensors = found
    for name, value in shared.below(tensors, "learning").items():
        learning[name].copy_(value)
    return step


# Before and after.


def new_trainee(config: FinetuneConfig) -> Trainee:
    """The VLM, ready to learn. Raises UserError where there is none of that name or LoRA has nothing to hold on to.

    With dtype "auto", what learns is float32 everywhere, as small steps would vanish in half precision; on a GPU the
    frozen weights of LoRA, and the arithmetic of both methods, are half precision.
    """
    options = config.vlm_options
    if options.server is not None:
        raise UserError("a served VLM has no weights here that could learn; leave out vlm_options.server.")
    if config.method == "full":
        options = options.model_copy(update={"dtype": "float32" if options.dtype == "auto" else options.dtype})
        return Trainee(load_vlm(config.vlm, options))
    vlm = load_vlm(config.vlm, options)
    return Trainee(vlm, add_lora(vlm.model, config.lora, config.seed))


def leave(trainee: Trainee, config: FinetuneConfig, folder: Path) -> None:
    """Writes `folder`/model, which load_vlm reads, and for LoRA `folder`/adapter, which peft reads.

    The weights have the type they had in the checkpoint; the adapter is added to them in float32. The trainee is of no
    further use.
    """
    model = trainee.vlm.model.cpu().float()
    if trainee.adapted is not None:
        save_lora(trainee.adapted, folder / "adapter")
        model = trainee.adapted.merge_and_unload()
    model.to(trainee.vlm.config.dtype or torch.float32).save_pretrained(folder / "model")
    # Loading took the checkpoint's way of decoding off the model; its own file, if any, comes back below.
    (folder / "model" / "generation_config.json").unlink(missing_ok=True)
    source = _beside_weights(locate(config.vlm))
    for file in _files(source):
        if file == source / "config.json":
            continue  # the model has written its own; Prismatic's trainer has another
        (folder / "model" / file.relative_to(source)).parent.mkdir(exist_ok=True)
        shutil.copyfile(file, folder / "model" / file.relative_to(source))


def _beside_weights(path: str) -> Path:
    return Path(path) if Path(path).is_dir() else Path(snapshot_download(path, allow_patterns=list(BESIDE_WEIGHTS)))


def _files(source: Path) -> Iterator[Path]:
    """What a checkpoint holds beside its weights, one folder deep (InstructBLIP's second tokenizer)."""
    for pattern in BESIDE_WEIGHTS:
        for file in (*source.glob(pattern), *source.glob(f"[!.]*/{pattern}")):
            if not file.name.endswith(".index.json"):  # says how weights were split
                yield file
