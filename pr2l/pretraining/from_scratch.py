"""Training of a small VLM from scratch, in two stages.

    warm-up     trains the vision tower to predict the contents of each cell of the frame
    language    trains the whole model to answer questions; the loss of the warm-up keeps a small weight

The number of a step seeds its batch, so a resumed training equals an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from pr2l.core.config import Seed
from pr2l.core.errors import UserError
from pr2l.data import questions
from pr2l.data.labelled_frames import LabelledFrames, cells
from pr2l.pretraining.architecture import Architecture, build
from pr2l.pretraining.examples import FrameBatch, QuestionMix, draw_frames, draw_questions
from pr2l.pretraining.stages import OnStep, Stage, run_stages
from pr2l.vlms.base import VLM
from pr2l.vlms.loading import load_vlm
from pr2l.vlms.token_ids import IGNORE_INDEX, padded


class TrainingOptions(BaseModel):
    """Options of a training from scratch."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    RENAMED: ClassVar = {"warmup_rate": "warmup_learning_rate", "language_rate": "language_learning_rate"}

    warmup_steps: PositiveInt  # gradient steps of the vision tower alone
    language_steps: PositiveInt  # gradient steps of the whole model
    warmup_learning_rate: PositiveFloat = 2e-3  # highest learning rate of the warm-up
    language_learning_rate: PositiveFloat = 1e-3  # highest learning rate of the language stage
    weight_decay: NonNegativeFloat = 0.02  # weight decay of AdamW
    batch_frames: PositiveInt = 64  # frames per gradient step
    questions_per_frame: PositiveInt = 4  # maximum number of questions per frame; they share a vision pass
    mix: QuestionMix = Field(default_factory=QuestionMix)  # proportions of the kinds of questions
    cells_weight: NonNegativeFloat = 0.02  # weight of the warm-up's loss in the language stage
    bfloat16: bool = True  # mixed precision; faster on CPUs with AVX512-BF16 or AMX and on GPUs
    seed: Seed = 0  # seed of the weights and of the batches


@dataclass
class ScratchModel:
    """VLM in training, with the linear layer of the warm-up, which is not saved with the model.

    Args:
        vlm: VLM, loaded from its untrained checkpoint.
        read_out: Linear layer from the vision features of a cell to logits of the cell's contents.
        names: All names that a label can have.
        grid: Number of cells along a side of the frame.
    """

    vlm: VLM
    read_out: nn.Linear
    names: tuple[str, ...]
    grid: int
    _answer_ids: dict[str, list[int]] = field(default_factory=dict, repr=False)

    @property
    def model(self) -> Any:
        """Model of transformers."""
        return self.vlm.model

    def answer_ids(self, answer: str) -> list[int]:
        """Return the token ids of an answer, with the end token; each answer is tokenized once.

        Args:
            answer: The text, without an end token.
        """
        if answer not in self._answer_ids:
            tokenizer = self.vlm.tokenizer
            ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
            self._answer_ids[answer] = [*ids, tokenizer.eos_token_id]
        return self._answer_ids[answer]


# Losses.


def cells_loss(scratch: ScratchModel, batch: FrameBatch) -> tuple[Tensor, dict[str, float]]:
    """Compute the loss of the warm-up: binary cross-entropy of the contents of cells.

    The loss is summed over the cells of a frame and averaged over frames.

    Args:
        scratch: VLM in training.
        batch: Frames with their labels.

    Returns:
        The loss, and the metric `cells_loss`.
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
    """Compute the loss of the language stage: cross-entropy of the answers, plus the weighted loss of the warm-up.

    All questions about a frame share one pass of the frame through the vision tower.

    Args:
        scratch: VLM in training.
        batch: Frames with their labels.
        options: Options of the training.

    Returns:
        The loss, and the metrics `cells_loss`, `language_loss` and `right`, the fraction of answers with every token
        predicted right.
    """
    tower = _tower(scratch, batch)
    count, mix = options.questions_per_frame, options.mix
    questions_of_frames = [draw_questions(view, scratch.names, count, batch.rng, mix) for view in batch.views()]
    language, metrics = answers_loss(scratch.vlm, tower, questions_of_frames, scratch.answer_ids)
    cells_value, cells_metrics = _cells_loss(scratch, batch, tower)
    return language + options.cells_weight * cells_value, cells_metrics | metrics


def answers_loss(
    vlm: VLM,
    tower: Tensor,
    questions: Sequence[Sequence[Any]],
    answer_ids: Callable[[str], list[int]],
) -> tuple[Tensor, dict[str, float]]:
    """Compute the cross-entropy of the answers to questions about B frames.

    Args:
        vlm: VLM in training.
        tower: Output [B, C, H, W] of the vision tower.
        questions: Questions of each frame, B lists; each question has a `text` and an `answer`.
        answer_ids: Function from an answer to its token ids, with the end token.

    Returns:
        The loss, and the metrics `language_loss` and `right`, the fraction of answers with every token predicted right.
    """
    model = vlm.model
    flat_questions = [question for frame_questions in questions for question in frame_questions]
    row = torch.tensor([index for index, frame_questions in enumerate(questions) for _ in frame_questions])
    ids, mask = _padded([vlm.token_ids(question.text) for question in flat_questions], model.config.pad_token_id)
    answers, real = _padded([answer_ids(question.answer) for question in flat_questions], IGNORE_INDEX)
    embedded = model.get_input_embeddings()(ids)
    image_features = model.model.multi_modal_projector(tower)[row].to(embedded.dtype)
    embedded = embedded.masked_scatter((ids == model.config.image_token_id)[..., None], image_features)
    logits = model(inputs_embeds=embedded, attention_mask=mask, labels=answers).logits.float()
    language = nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten(), ignore_index=IGNORE_INDEX)
    right = ((logits.argmax(-1) == answers) | (real == 0)).all(1).float().mean().item()
    return language, {"language_loss": language.item(), "right": right}


def _tower(scratch: ScratchModel, batch: FrameBatch) -> Tensor:
    """Compute the output [B, C, grid, grid] of the last stage of the vision tower."""
    states: Tensor = scratch.model.model.vision_tower(scratch.vlm.preprocess(batch.frames)).last_hidden_state
    return states


def _padded(rows: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor]:
    """Pad token ids on the right with `fill`; return ids and mask (1 = real token), both int64 [B, T]."""
    return padded(rows, fill), padded([[1] * len(row) for row in rows], 0)


# Training.


def stages(options: TrainingOptions) -> tuple[Stage, Stage]:
    """Return the warm-up and the language stage.

    Args:
        options: Numbers of steps and highest learning rates of both stages.
    """
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
    """Train in both stages, from the last checkpoint in the folder if there is one; see `run_stages`.

    Args:
        scratch: VLM to train.
        sets: Sets of labelled frames.
        options: Options of the training.
        folder: Folder of the training, for the checkpoints.
        on_step: Function that runs after each step.
    """

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
        names: All names that a label can have, for the vocabulary.
        folder: Folder for the checkpoint.
        seed: Seed of the random weights.
        rooms: Names of rooms, for the vocabulary; see `questions.vocabulary`.
        start: Name of a VLM of the same architecture, from which to copy the weights and the embeddings of shared
            words; None = random weights.

    Raises:
        UserError: `start` has another architecture.
    """
    build(architecture, questions.vocabulary(names, rooms), folder, seed)
    vlm = load_vlm(str(folder))
    if start is not None:
        _copy_weights(start, vlm)
    vlm.model.train().requires_grad_(True)
    # torch's fused attention is twice as slow as the plain one in a backward pass on a CPU.
    vlm.model.set_attn_implementation("eager")
    read_out = nn.Linear(architecture.tower_widths[-1], 2 * len(names) + len(questions.DISTANCES)).to(vlm.model.device)
    nn.init.constant_(read_out.bias, -3.5)  # a cell shows a given name about 2 % of the time
    return ScratchModel(vlm, read_out, tuple(names), architecture.grid)


@torch.no_grad()
def _copy_weights(start: str, vlm: VLM) -> None:
    """Copy the weights of another VLM, with the embeddings word by word, because the vocabularies differ."""
    source = load_vlm(start)
    weights, words = source.model.state_dict(), source.tokenizer.get_vocab()
    embeddings = vlm.model.get_input_embeddings().weight
    for name, weight in vlm.model.state_dict().items():
        if weight.data_ptr() == embeddings.data_ptr():
            continue
        if name in weights and weights[name].shape == weight.shape:
            weight.copy_(weights[name])
        elif embeddings.shape[0] not in weight.shape:
            missing = f"{name} of shape {list(weight.shape)}"
            raise UserError(f"start={start!r} has another architecture: it has no weight {missing}")
    for word, row in vlm.tokenizer.get_vocab().items():
        if word in words:
            embeddings[row] = source.model.get_input_embeddings().weight[words[word]]
