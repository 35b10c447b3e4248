"""Training of a small VLM from scratch, in two stages.

    warm-up     the vision tower learns which names each cell of the frame shows
    language    the whole model learns to answer questions; the loss of the warm-up keeps a small weight

Each step draws its batch from its own number, so a resumed training equals one that never stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from pr2l.core.errors import UserError
from pr2l.data import questions
from pr2l.data.labelled_frames import LabelledFrames, cells
from pr2l.data.questions import Question
from pr2l.pretraining.architecture import Architecture, build
from pr2l.pretraining.examples import FrameBatch, QuestionMix, draw_frames, draw_questions
from pr2l.pretraining.stages import OnStep, Stage, run_stages
from pr2l.vlms.base import IGNORE_INDEX, VLM
from pr2l.vlms.loading import load_vlm


class TrainingOptions(BaseModel):
    """Steps, learning rates and batches of a training from scratch."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    RENAMED: ClassVar = {"warmup_rate": "warmup_learning_rate", "language_rate": "language_learning_rate"}

    warmup_steps: PositiveInt  # of the vision tower alone
    language_steps: PositiveInt  # of the whole model
    warmup_learning_rate: PositiveFloat = 2e-3  # the highest of the stage
    language_learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.02
    batch_frames: PositiveInt = 64
    questions_per_frame: PositiveInt = 4  # they share the frame's pass through the vision tower
    mix: QuestionMix = Field(default_factory=QuestionMix)
    cells_weight: NonNegativeFloat = 0.02  # of the warm-up's loss in the language stage
    bfloat16: bool = True  # mixed precision; faster on CPUs with AVX512-BF16 or AMX and on GPUs
    seed: int = 0


@dataclass
class ScratchModel:
    """A VLM under training, with the linear read-out of its warm-up, which is not kept.

    Args:
        vlm: The model, as loaded from its untrained checkpoint.
        read_out: Features of a cell of the vision tower -> logits of what the cell shows.
        names: Every name that a label can have.
        grid: Cells along a side of the frame.
    """

    vlm: VLM
    read_out: nn.Linear
    names: tuple[str, ...]
    grid: int

    @property
    def model(self) -> Any:
        return self.vlm.model


# Losses.


def cells_loss(scratch: ScratchModel, batch: FrameBatch) -> tuple[Tensor, dict[str, float]]:
    """Compute the warm-up's loss: cross-entropy of what each cell shows, summed over cells, averaged over frames.

    Returns:
        The loss, and it again by its name in the metrics.
    """
    return _cells_loss(scratch, batch, _tower(scratch, batch))


def _cells_loss(scratch: ScratchModel, batch: FrameBatch, tower: Tensor) -> tuple[Tensor, dict[str, float]]:
    logits = scratch.read_out(tower.permute(0, 2, 3, 1)).float()  # [B, grid, grid, K]
    targets = torch.from_numpy(cells(batch.labels, scratch.names, batch.size, scratch.grid)).to(logits)
    loss = nn.functional.binary_cross_entropy_with_logits(logits, targets.permute(0, 2, 3, 1), reduction="sum")
    loss = loss / len(batch.frames)
    return loss, {"cells_loss": loss.item()}


def language_loss(
    scratch: ScratchModel, batch: FrameBatch, options: TrainingOptions
) -> tuple[Tensor, dict[str, float]]:
    """Compute the language stage's loss: cross-entropy of the answers' tokens, plus the weighted loss of the warm-up.

    All questions about a frame share its pass through the vision tower.

    Returns:
        The loss, and metrics: both parts and `right`, the share of answers whose tokens are all predicted.
    """
    model, tower = scratch.model, _tower(scratch, batch)
    count, mix = options.questions_per_frame, options.mix
    questions_of_frames = [draw_questions(view, scratch.names, count, batch.rng, mix) for view in batch.views()]
    asked = [question for frame_questions in questions_of_frames for question in frame_questions]
    row = torch.tensor([index for index, frame_questions in enumerate(questions_of_frames) for _ in frame_questions])
    ids, mask = _padded([scratch.vlm.layout(question.text) for question in asked], model.config.pad_token_id)
    answers, real = _padded([_answer_ids(scratch.vlm, question) for question in asked], IGNORE_INDEX)
    embedded = model.get_input_embeddings()(ids)
    image_features = model.model.multi_modal_projector(tower)[row].to(embedded.dtype)
    embedded = embedded.masked_scatter((ids == model.config.image_token_id)[..., None], image_features)
    logits = model(inputs_embeds=embedded, attention_mask=mask, labels=answers).logits.float()
    language = nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten(), ignore_index=IGNORE_INDEX)
    right = ((logits.argmax(-1) == answers) | (real == 0)).all(1).float().mean().item()
    cells_value, metrics = _cells_loss(scratch, batch, tower)
    metrics |= {"language_loss": language.item(), "right": right}
    return language + options.cells_weight * cells_value, metrics


def _tower(scratch: ScratchModel, batch: FrameBatch) -> Tensor:
    """[B, C, grid, grid]: the last stage of the vision tower."""
    states: Tensor = scratch.model.model.vision_tower(scratch.vlm.preprocess(batch.frames)).last_hidden_state
    return states


def _answer_ids(vlm: VLM, question: Question) -> list[int]:
    return [*vlm.tokenizer(question.answer, add_special_tokens=False)["input_ids"], vlm.tokenizer.eos_token_id]


def _padded(rows: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor]:
    """int64 ids [B, T] padded on the right with `fill`, and 1 where they are real."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


# Training.


def stages(options: TrainingOptions) -> tuple[Stage, Stage]:
    return (
        Stage("warm-up", options.warmup_steps, options.warmup_learning_rate),
        Stage("language", options.language_steps, options.language_learning_rate),
    )


def train(
    scratch: ScratchModel,
    sets: Sequence[LabelledFrames],
    options: TrainingOptions,
    folder: Path,
    on_step: OnStep,
) -> None:
    """Run both stages, from the last checkpoint in the folder if there is one; see `run_stages`."""

    def loss(stage: int, step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((options.seed, stage, step))
        batch = draw_frames(sets, options.batch_frames, rng)
        with torch.autocast(scratch.model.device.type, torch.bfloat16, enabled=options.bfloat16):
            return cells_loss(scratch, batch) if stage == 0 else language_loss(scratch, batch, options)

    modules = {"model": scratch.model, "read_out": scratch.read_out}
    parameters = [*scratch.model.parameters(), *scratch.read_out.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=options.warmup_learning_rate, weight_decay=options.weight_decay)
    run_stages(stages(options), modules, optimizer, loss, folder, on_step)


def new_model(
    architecture: Architecture,
    names: Sequence[str],
    folder: Path,
    seed: int,
    rooms: Sequence[str] = (),
    start: str | None = None,
) -> ScratchModel:
    """Write a checkpoint with random weights and load it for training.

    Args:
        architecture: Sizes of the model.
        names: Every name that a label can have; they are in its vocabulary.
        folder: Where the checkpoint is written.
        seed: Of the random weights.
        rooms: Names of rooms, for its vocabulary; see `questions.vocabulary`.
        start: A VLM of the same architecture, whose weights replace the random ones, as do its embeddings of the words
            that both know. None = the weights stay random.

    Raises:
        UserError: `start` has another architecture.
    """
    build(architecture, questions.vocabulary(names, rooms), folder, seed)
    vlm = load_vlm(str(folder))
    if start is not None:
        _copy_weights(start, vlm)
    vlm.model.train()
    # torch's fused attention is twice as slow as the plain one in a backward pass on a CPU.
    vlm.model.set_attn_implementation("eager")
    read_out = nn.Linear(architecture.tower_widths[-1], 2 * len(names) + len(questions.DISTANCES)).to(vlm.model.device)
    nn.init.constant_(read_out.bias, -3.5)  # a cell shows a given name about 2 % of the time
    return ScratchModel(vlm, read_out, tuple(names), architecture.grid)


@torch.no_grad()
def _copy_weights(start: str, vlm: VLM) -> None:
    """Copy the weights of another VLM; embeddings word by word, as the vocabularies differ."""
    other = load_vlm(start)
    weights, words = other.model.state_dict(), other.tokenizer.get_vocab()
    embeddings = vlm.model.get_input_embeddings().weight
    for name, weight in vlm.model.state_dict().items():
        if weight.data_ptr() == embeddings.data_ptr():
            continue
        if name in weights and weights[name].shape == weight.shape:
            weight.copy_(weights[name])
        elif embeddings.shape[0] not in weight.shape:
            raise UserError(f"start={start!r} has another architecture: no {name} of the shape {list(weight.shape)}")
    for word, row in vlm.tokenizer.get_vocab().items():
        if word in words:
            embeddings[row] = other.model.get_input_embeddings().weight[words[word]]
