"""Fine-tuning of any VLM on questions about labelled frames, with the loss of its own family.

full    every weight is trained
lora    the weights stay frozen; small matrices beside them are trained and merged into them at the end
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from huggingface_hub import snapshot_download
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from pr2l.core.errors import UserError
from pr2l.core.types import Frames
from pr2l.data.labelled_frames import LabelledFrames, Source
from pr2l.data.questions import Question
from pr2l.pretraining.examples import draw_frames, draw_questions
from pr2l.pretraining.stages import OnStep, Stage, run_stages
from pr2l.vlms.base import IGNORE_INDEX, VLM, Defaults
from pr2l.vlms.checkpoint import locate
from pr2l.vlms.loading import load_vlm
from pr2l.vlms.lora import Lora, add_lora, save_lora

Example = tuple[Frames, Question]  # a frame uint8 [H, W, 3] and a question about it, with its answer
BESIDE_WEIGHTS = ("*.json", "*.txt", "*.model", "*.jinja")  # config, tokenizer, processors, chat template


class FinetuneConfig(BaseModel):
    """Everything that defines one fine-tuning."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    RENAMED: ClassVar = {"batch": "batch_size", "rate": "learning_rate"}

    why: str
    vlm: str  # "tiny", a local folder or a Hub id
    vlm_options: Defaults = Field(default_factory=Defaults)  # as in the runs that will use it: image_size above all
    method: Literal["lora", "full"] = "lora"  # lora takes a fraction of the memory, and changes what was known less
    lora: Lora = Field(default_factory=Lora)
    train: tuple[Source, ...]  # frames to train on
    test: tuple[Source, ...]  # frames of the evaluations before and after: other rooms, other seeds
    steps: PositiveInt
    batch_size: PositiveInt = 16  # questions per step, each about a frame of its own
    # The highest of the schedule; None = 2e-4 for lora, 1e-5 for full, whose weights drift away easily.
    learning_rate: PositiveFloat | None = None
    weight_decay: NonNegativeFloat = 0.0  # it would pull the weights away from what they knew
    seed: NonNegativeInt = 0
    threads: PositiveInt = 2  # of torch, on a CPU

    @property
    def stage(self) -> Stage:
        rate = self.learning_rate or {"lora": 2e-4, "full": 1e-5}[self.method]
        return Stage(f"fine-tuning ({self.method})", self.steps, rate)


@dataclass
class TrainedVLM:
    """A VLM under training.

    Args:
        vlm: The VLM.
        adapted: peft's view of its model with the adapter; None = every weight is trained.
    """

    vlm: VLM
    adapted: Any = None

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        return {name: weight for name, weight in self.vlm.model.named_parameters() if weight.requires_grad}


def answer_loss(vlm: VLM, examples: Sequence[Example]) -> tuple[Tensor, dict[str, float]]:
    """Compute the mean cross-entropy of the answers' tokens, each with its end token.

    Args:
        vlm: The VLM, in training mode or not.
        examples: The batch.

    Returns:
        The loss, and metrics: it again, and `right`, the share of answers whose tokens are all predicted.
    """
    frames = np.stack([frame for frame, _ in examples])
    texts, answers = ([getattr(question, key) for _, question in examples] for key in ("text", "answer"))
    inputs, targets = vlm.training_inputs(frames, texts, answers)
    logits = vlm.model(**inputs).logits.float()
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX)
    right = ((logits.argmax(-1) == targets) | (targets == IGNORE_INDEX)).all(1).float().mean().item()
    return loss, {"answer_loss": loss.item(), "right": right}


def train(
    trained: TrainedVLM, sets: Sequence[LabelledFrames], config: FinetuneConfig, folder: Path, on_step: OnStep
) -> None:
    """Make all steps, from the last checkpoint in the folder if there is one; see `run_stages`."""
    vlm, parameters = trained.vlm, trained.trained_parameters()
    mixed = vlm.model.device.type == "cuda" and config.vlm_options.dtype == "auto"

    def loss(stage: int, step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((config.seed, step))
        torch.manual_seed(int(rng.integers(1 << 62)))  # dropout too is drawn from the step's own number
        with torch.autocast(vlm.model.device.type, torch.bfloat16, enabled=mixed):
            return answer_loss(vlm, draw_examples(sets, config.batch_size, rng))

    optimizer = torch.optim.AdamW(parameters.values(), lr=config.stage.rate, weight_decay=config.weight_decay)
    vlm.model.train()
    run_stages([config.stage], {"trained": parameters}, optimizer, loss, folder, on_step)
    vlm.model.eval()


def draw_examples(sets: Sequence[LabelledFrames], count: int, rng: np.random.Generator) -> list[Example]:
    """Draw frames with one question each; frames that show nothing clearly enough to ask about are skipped."""
    names = sorted({name for frame_set in sets for name in frame_set.names})
    examples: list[Example] = []
    while len(examples) < count:
        batch = draw_frames(sets, count - len(examples), rng)
        for frame, view in zip(batch.frames, batch.views(), strict=True):
            examples += [(frame, question) for question in draw_questions(view, names, 1, rng)]
    return examples


def load_for_training(config: FinetuneConfig) -> TrainedVLM:
    """Load the VLM, with an adapter for method=lora.

    With dtype "auto", what is trained is float32 everywhere, as small steps would vanish in half precision; on a GPU
    the frozen weights of LoRA, and the arithmetic of both methods, are half precision.

    Raises:
        UserError: There is no VLM of that name, it is a server's, or no layer fits lora.target_modules.
    """
    options = config.vlm_options
    if options.server is not None:
        raise UserError("a served VLM has no weights here that could be trained; leave out vlm_options.server.")
    if config.method == "full":
        options = options.model_copy(update={"dtype": "float32" if options.dtype == "auto" else options.dtype})
        return TrainedVLM(load_vlm(config.vlm, options))
    vlm = load_vlm(config.vlm, options)
    return TrainedVLM(vlm, add_lora(vlm.model, config.lora, config.seed))


def export(trained: TrainedVLM, config: FinetuneConfig, folder: Path) -> None:
    """Write `folder`/model, which load_vlm reads, and for LoRA `folder`/adapter, which peft reads.

    The weights have the dtype that they had in the checkpoint; the adapter is added to them in float32. Do not use
    `trained` afterwards.
    """
    model = trained.vlm.model.cpu().float()
    if trained.adapted is not None:
        save_lora(trained.adapted, folder / "adapter")
        model = trained.adapted.merge_and_unload()
    model.to(trained.vlm.config.dtype or torch.float32).save_pretrained(folder / "model")
    # Loading replaced the checkpoint's generation settings; its own file, if any, is copied below.
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
