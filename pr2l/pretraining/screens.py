"""Training of a small VLM that reads screens, in two stages.

    warm-up     trains the vision tower to read the words and to name the elements of each cell
    language    trains the whole model to answer questions; the loss of the warm-up keeps a small weight

The number of a step seeds its batch, so a resumed training equals an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from pr2l.core.config import Seed
from pr2l.core.types import Frames
from pr2l.data.screen_questions import VERBS, ScreenView, draw_questions, title
from pr2l.data.screen_texts import bare
from pr2l.data.screens import ScreenSet
from pr2l.pretraining.architecture import ScreenArchitecture, build_with, byte_tokenizer
from pr2l.pretraining.evaluation import score
from pr2l.pretraining.from_scratch import answers_loss
from pr2l.pretraining.screen_reading import (
    Letters,
    Word,
    is_readable,
    new_reader,
    piece,
    read,
    reading_accuracy,
    reading_loss,
    texts_of,
)
from pr2l.pretraining.stages import OnStep, Stage, run_stages
from pr2l.vlms.base import VLM
from pr2l.vlms.loading import load_vlm

ROLES = tuple(VERBS)
CONTENTS = (*ROLES, "on", "off")  # what the centre of an element in a cell says about it


Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]


class ScreenMix(BaseModel):
    """Weights of the kinds of questions about a screen."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    read: NonNegativeFloat = 0.25
    tap: NonNegativeFloat = 0.25
    here: NonNegativeFloat = 0.1
    presence: NonNegativeFloat = 0.1
    switch: NonNegativeFloat = 0.1
    field: NonNegativeFloat = 0.05
    screen: NonNegativeFloat = 0.05
    overlay: NonNegativeFloat = 0.03
    changed: NonNegativeFloat = 0.07


class ReadingOptions(BaseModel):
    """Options of a training on screens."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    warmup_steps: PositiveInt  # gradient steps of the vision tower alone
    language_steps: NonNegativeInt  # gradient steps of the whole model
    warmup_learning_rate: PositiveFloat = 2e-3  # highest learning rate of the warm-up
    language_learning_rate: PositiveFloat = 1e-3  # highest learning rate of the language stage
    weight_decay: NonNegativeFloat = 0.02  # weight decay of AdamW
    batch_frames: PositiveInt = 16  # screens per gradient step
    words_per_frame: PositiveInt = 256  # maximum number of words per screen that are read in a step
    pieces: Fraction = 0.5  # share of words of which only a random piece of 1 to 3 letters is read
    warmup_text: Fraction = 0.75  # share of pages of text among the screens of the warm-up, if the data have any
    language_text: Fraction = 0.15  # the same in the language stage
    questions_per_frame: PositiveInt = 4  # questions per screen; they share a vision pass
    absent: NonNegativeInt = 8  # titles of other screens per screen, for questions about presence
    mix: ScreenMix = Field(default_factory=ScreenMix)  # weights of the kinds of questions
    cells_weight: NonNegativeFloat = 0.02  # weight of the loss of the cells' contents in the warm-up
    warmup_weight: NonNegativeFloat = 0.3  # weight of the warm-up's loss in the language stage
    bfloat16: bool = True  # mixed precision; faster on CPUs with AVX512-BF16 or AMX and on GPUs
    seed: Seed = 0  # seed of the weights and of the batches


@dataclass(frozen=True)
class ScreenModel:
    """VLM in training, with the linear layers of the warm-up, which are not saved with the model.

    Args:
        vlm: VLM, loaded from its untrained checkpoint.
        reader: Layer from the features of a cell to the scores of letters.
        contents: Layer from the features of a cell to logits of CONTENTS.
        cell: Side of a cell in pixels.
    """

    vlm: VLM
    reader: nn.Linear
    contents: nn.Linear
    cell: int

    @property
    def model(self) -> Any:
        """Model of transformers."""
        return self.vlm.model

    def answer_ids(self, answer: str) -> list[int]:
        """Return the token ids of an answer, with the end token.

        Args:
            answer: The text, without an end token.
        """
        tokenizer = self.vlm.tokenizer
        return [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]

    def tower(self, frames: Frames) -> Tensor:
        """Return the features [B, C, H, W] of the cells of frames uint8 [B, H, W, 3]."""
        states: Tensor = self.model.model.vision_tower(self.vlm.preprocess(frames)).last_hidden_state
        return states


@dataclass(frozen=True)
class ScreenBatch:
    """Batch of B screens.

    Args:
        frames: uint8 [B, H, W, 3].
        rows: Rows of the screen sets, B.
        absent: Titles of elements of other screens, for each screen.
        rng: Random generator for further draws for this batch.
    """

    frames: Frames
    rows: list[dict[str, Any]]
    absent: list[list[str]]
    rng: np.random.Generator

    @cached_property
    def views(self) -> list[ScreenView]:
        """What each screen shows."""
        return [ScreenView(row, (self.frames.shape[1], self.frames.shape[2])) for row in self.rows]


# Losses.


def warmup_loss(screen: ScreenModel, batch: ScreenBatch, options: ReadingOptions) -> tuple[Tensor, dict[str, float]]:
    """Compute the loss of the warm-up: CTC of the words, plus the weighted cross-entropy of the cells' contents.

    Args:
        screen: VLM in training.
        batch: Screens.
        options: Options of the training.

    Returns:
        The loss, and the metrics `reading_loss`, `words_right` (fraction of words read without an error) and
        `cells_loss`.
    """
    return _warmup_loss(screen, batch, screen.tower(batch.frames), options)


def _warmup_loss(
    screen: ScreenModel, batch: ScreenBatch, tower: Tensor, options: ReadingOptions
) -> tuple[Tensor, dict[str, float]]:
    cells = cells_loss(screen, batch, tower)
    words = draw_words(batch, options.words_per_frame, options.pieces)
    if not any(words):
        return options.cells_weight * cells, {"cells_loss": cells.item()}
    letters = read(screen.reader, tower, words, screen.cell)
    reading = reading_loss(letters)
    metrics = {
        "reading_loss": reading.item(),
        "words_right": reading_accuracy(letters),
        "cells_loss": cells.item(),
    }
    return reading + options.cells_weight * cells, metrics


def cells_loss(screen: ScreenModel, batch: ScreenBatch, tower: Tensor) -> Tensor:
    """Compute the binary cross-entropy of the contents of cells, summed over a frame's cells, averaged over frames."""
    logits = screen.contents(tower.permute(0, 2, 3, 1)).float()
    targets = torch.from_numpy(cell_contents(batch.rows, (tower.shape[2], tower.shape[3]), screen.cell)).to(logits)
    loss: Tensor = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    return loss / len(batch.rows)


def cell_contents(rows: Sequence[dict[str, Any]], grid: tuple[int, int], cell: int) -> np.ndarray:
    """Return the contents of cells, bool [B, *grid, CONTENTS]: roles and states of the elements centred in each cell.

    Args:
        rows: Rows of screen sets, B.
        grid: Number of rows and columns of cells.
        cell: Side of a cell in pixels.
    """
    contents = np.zeros((len(rows), *grid, len(CONTENTS)), bool)
    for index, row in enumerate(rows):
        for label in row["labels"]:
            x0, y0, x1, y1 = label["box"]
            down, across = int((y0 + y1) / 2 / cell), int((x0 + x1) / 2 / cell)
            here = contents[index, min(down, grid[0] - 1), min(across, grid[1] - 1)]
            if label["role"] in ROLES:
                here[ROLES.index(label["role"])] = True
            if isinstance(label["value"], bool):
                here[CONTENTS.index("on" if label["value"] else "off")] = True
    return contents


def language_loss(screen: ScreenModel, batch: ScreenBatch, options: ReadingOptions) -> tuple[Tensor, dict[str, float]]:
    """Compute the loss of the language stage: cross-entropy of the answers, plus the weighted loss of the warm-up.

    Args:
        screen: VLM in training.
        batch: Screens.
        options: Options of the training.

    Returns:
        The loss, and the metrics of `warmup_loss`, `language_loss` and `right`, the fraction of answers with every
        token predicted right.
    """
    tower, mix = screen.tower(batch.frames), options.mix.model_dump()
    questions = [
        draw_questions(view, absent, options.questions_per_frame, batch.rng, mix)
        for view, absent in zip(batch.views, batch.absent, strict=True)
    ]
    language, metrics = answers_loss(screen.vlm, tower, questions, screen.answer_ids)
    warmup, warmup_metrics = _warmup_loss(screen, batch, tower, options)
    return language + options.warmup_weight * warmup, warmup_metrics | metrics


# Batches.


def draw_screens(
    sets: Sequence[ScreenSet], options: ReadingOptions, text_share: float, rng: np.random.Generator
) -> ScreenBatch:
    """Draw random screens; those of apps are equally probable, and so are the pages of text.

    Args:
        sets: Sets of screens of the same size.
        options: Options of the training.
        text_share: Expected share of pages of text; it counts only if there are sets of both kinds.
        rng: Random generator, which the batch keeps.
    """
    numbers = rng.choice(len(sets), size=options.batch_frames, p=_probabilities(sets, text_share))
    places = [(sets[number], int(rng.integers(len(sets[number])))) for number in numbers]
    frames = np.stack([screen_set.frame(row) for screen_set, row in places])
    absent = [draw_titles(screen_set, options.absent, rng) for screen_set, _ in places]
    return ScreenBatch(frames, [screen_set.rows[row] for screen_set, row in places], absent, rng)


def _probabilities(sets: Sequence[ScreenSet], text_share: float) -> np.ndarray:
    lengths = np.array([len(screen_set) for screen_set in sets], float)
    is_text = np.array([screen_set.content == "text" for screen_set in sets])
    if is_text.all() or not is_text.any():
        return lengths / lengths.sum()
    shares = np.where(is_text, text_share, 1 - text_share)
    totals = np.where(is_text, lengths[is_text].sum(), lengths[~is_text].sum())
    return shares * lengths / totals


def draw_titles(screen_set: ScreenSet, count: int, rng: np.random.Generator) -> list[str]:
    """Draw titles of elements of random screens of a set."""
    labels = [screen_set.rows[int(rng.integers(len(screen_set)))]["labels"] for _ in range(count)]
    named = [[label for label in row if label["role"] in VERBS] for row in labels]
    return [title(row[int(rng.integers(len(row)))]["name"]) for row in named if row]


def draw_words(batch: ScreenBatch, count: int, pieces: float) -> list[list[Word]]:
    """Draw up to `count` readable words or pieces of words of each screen.

    Args:
        batch: Screens.
        count: Maximum number per screen.
        pieces: Share of words of which a random piece is drawn.
    """
    words = []
    for row in batch.rows:
        drawn = [
            (row["words"][index], row["edges"][index]) for index in batch.rng.permutation(len(row["words"]))[:count]
        ]
        words.append([piece(word, edges, batch.rng) if batch.rng.random() < pieces else word for word, edges in drawn])
    return [list(filter(is_readable, row)) for row in words]


def readable_words(row: dict[str, Any]) -> list[Word]:
    """Return the words of a row of a screen set that CTC can read."""
    return [(text, box) for text, box in row["words"] if is_readable((text, box))]


# Training.


def stages(options: ReadingOptions) -> tuple[Stage, ...]:
    """Return the warm-up and the language stage, without a stage of 0 steps.

    Args:
        options: Numbers of steps and highest learning rates of both stages.
    """
    both = (
        Stage("warm-up", options.warmup_steps, options.warmup_learning_rate),
        Stage("language", options.language_steps, options.language_learning_rate),
    )
    return tuple(stage for stage in both if stage.steps)


def train(
    screen: ScreenModel, sets: Sequence[ScreenSet], options: ReadingOptions, folder: Path, on_step: OnStep
) -> None:
    """Train in both stages, from the last checkpoint in the folder if there is one; see `run_stages`.

    Args:
        screen: VLM to train.
        sets: Sets of screens.
        options: Options of the training.
        folder: Folder of the training, for the checkpoints.
        on_step: Function that runs after each step.
    """

    def loss(stage: int, step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((options.seed, stage, step))
        text_share = options.language_text if stage else options.warmup_text
        batch = draw_screens(sets, options, text_share, rng)
        with torch.autocast(screen.model.device.type, torch.bfloat16, enabled=options.bfloat16):
            return warmup_loss(screen, batch, options) if stage == 0 else language_loss(screen, batch, options)

    modules = {"model": screen.model, "reader": screen.reader, "contents": screen.contents}
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=options.warmup_learning_rate, weight_decay=options.weight_decay)
    run_stages(stages(options), modules, optimizer, loss, folder, on_step)


def new_model(architecture: ScreenArchitecture, folder: Path, seed: int) -> ScreenModel:
    """Write a checkpoint with random weights and load it for training.

    Args:
        architecture: Sizes of the model.
        folder: Folder for the checkpoint.
        seed: Seed of the random weights.
    """
    build_with(architecture, byte_tokenizer(), folder, seed)
    vlm = load_vlm(str(folder))
    vlm.model.train().requires_grad_(True)
    # torch's fused attention is twice as slow as the plain one in a backward pass on a CPU.
    vlm.model.set_attn_implementation("eager")
    width, device = architecture.tower_widths[-1], vlm.model.device
    contents = nn.Linear(width, len(CONTENTS)).to(device)
    nn.init.constant_(contents.bias, -5.0)  # one cell of 150 has the centre of an element of a role
    return ScreenModel(vlm, new_reader(width, architecture.cell).to(device), contents, architecture.cell)


# Evaluation of the warm-up.


def known_words(sets: Sequence[ScreenSet]) -> frozenset[str]:
    """Return all words of sets of screens, without case and punctuation at their ends."""
    return frozenset(bare(text) for screen_set in sets for row in screen_set.rows for text, _ in row["words"])


@torch.no_grad()
def evaluate_reading(
    screen: ScreenModel, screen_set: ScreenSet, known: frozenset[str], batch_frames: int = 8
) -> dict[str, dict[str, float | int]]:
    """Evaluate how many words the tower and the reader read without an error, if their boxes are known.

    Args:
        screen: VLM in training.
        screen_set: Screens of the evaluation.
        known: Words of the training, see `known_words`.
        batch_frames: Screens per batch.

    Returns:
        {"words": {"accuracy", "asked"}, "new words": the same for words that the training does not have}; without those
        of which there are none.
    """
    right: list[bool] = []
    texts: list[str] = []
    for start in range(0, len(screen_set), batch_frames):
        rows = range(start, min(start + batch_frames, len(screen_set)))
        words = [readable_words(screen_set.rows[row]) for row in rows]
        if any(words):
            letters = _letters(screen, np.stack([screen_set.frame(row) for row in rows]), words)
            right += [found == text for found, text in zip(texts_of(letters), letters.texts, strict=True)]
            texts += letters.texts
    new = [is_right for is_right, text in zip(right, texts, strict=True) if bare(text) not in known]
    return {name: score(values) for name, values in (("words", right), ("new words", new)) if values}


def _letters(screen: ScreenModel, frames: Frames, words: Sequence[Sequence[Word]]) -> Letters:
    return read(screen.reader, screen.tower(frames), words, screen.cell)
