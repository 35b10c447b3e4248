"""Fine-tuning of any VLM on questions about frames, with the input format of its own family.

full    trains every weight
lora    freezes the weights, trains small matrices beside them, and merges these into the weights at the end
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from huggingface_hub import snapshot_download
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from pr2l.core.config import Seed
from pr2l.core.errors import UserError
from pr2l.core.types import Frames
from pr2l.data.labelled_frames import LabelledFrames, Source
from pr2l.pretraining.examples import draw_frames, draw_questions
from pr2l.pretraining.stages import OnStep, Stage, run_stages
from pr2l.vlms.base import VLM, Defaults
from pr2l.vlms.checkpoint import locate
from pr2l.vlms.loading import load_vlm
from pr2l.vlms.lora import Lora, add_lora, save_lora
from pr2l.vlms.token_ids import IGNORE_INDEX


class Asked(Protocol):
    """Question with its right answer."""

    @property
    def text(self) -> str: ...
    @property
    def answer(self) -> str: ...


Example = tuple[Frames, Asked]  # a frame uint8 [H, W, 3], and a question about it
Draw = Callable[[int, np.random.Generator], list[Example]]  # number of examples, random generator -> random examples
BESIDE_WEIGHTS = ("*.json", "*.txt", "*.model", "*.jinja")  # config, tokenizer, processors, chat template


class AdaptConfig(BaseModel):
    """Config of a fine-tuning, without what the questions are about."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    RENAMED: ClassVar = {"batch": "batch_size", "rate": "learning_rate"}

    why: str  # purpose of the training, in a sentence
    vlm: str  # "tiny", a local folder or a Hub id
    vlm_options: Defaults = Field(default_factory=Defaults)  # options of the VLM, equal to those of later runs
    method: Literal["lora", "full"] = "lora"  # lora needs a fraction of the memory, and the VLM forgets less
    lora: Lora = Field(default_factory=Lora)  # options of the LoRA adapter
    steps: PositiveInt  # gradient steps
    batch_size: PositiveInt = 16  # questions per gradient step, each about another frame
    # Highest learning rate of the schedule; None = 2e-4 for lora, 1e-5 for full, which forgets more easily.
    learning_rate: PositiveFloat | None = None
    weight_decay: NonNegativeFloat = 0.0  # weight decay of AdamW; more would make the VLM forget
    seed: Seed = 0  # seed of the adapter's weights and of the batches
    threads: PositiveInt = 2  # torch threads on a CPU

    @property
    def stage(self) -> Stage:
        """The single stage of the training, with its steps and learning rate."""
        rate = self.learning_rate or {"lora": 2e-4, "full": 1e-5}[self.method]
        return Stage(f"fine-tuning ({self.method})", self.steps, rate)


class FinetuneConfig(AdaptConfig):
    """Config of a fine-tuning on labelled frames."""

    train: tuple[Source, ...] = Field(min_length=1)  # frames for training
    test: tuple[Source, ...]  # frames for the evaluations before and after, from other rooms and seeds


@dataclass
class TrainedVLM:
    """VLM in training.

    Args:
        vlm: The VLM.
        adapted: The model of the VLM with its adapter, as a peft model; None = training changes every weight.
    """

    vlm: VLM
    adapted: Any = None

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name."""
        return {name: weight for name, weight in self.vlm.model.named_parameters() if weight.requires_grad}


def answer_loss(vlm: VLM, examples: Sequence[Example]) -> tuple[Tensor, dict[str, float]]:
    """Compute the mean cross-entropy over the tokens of the answers, including their end tokens.

    Args:
        vlm: The VLM, in training or evaluation mode.
        examples: Batch of frames with a question each.

    Returns:
        The loss, and the metrics `answer_loss` and `right`, the fraction of answers with every token predicted right.
    """
    frames = np.stack([frame for frame, _ in examples])
    texts, answers = ([getattr(question, key) for _, question in examples] for key in ("text", "answer"))
    inputs, targets = vlm.training_inputs(frames, texts, answers)
    logits = vlm.model(**inputs).logits.float()
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX)
    right = ((logits.argmax(-1) == targets) | (targets == IGNORE_INDEX)).all(1).float().mean().item()
    return loss, {"answer_loss": loss.item(), "right": right}


def train(trained: TrainedVLM, draw: Draw, config: AdaptConfig, folder: Path, on_step: OnStep) -> None:
    """Train a VLM, from the last checkpoint in the folder if there is one; see `run_stages`.

    Args:
        trained: VLM to train.
        draw: Function that draws the examples of a batch.
        config: Config of the fine-tuning.
        folder: Folder of the training, for the checkpoints.
        on_step: Function that runs after each step.
    """
    vlm, parameters = trained.vlm, trained.trained_parameters()
    use_autocast = vlm.model.device.type == "cuda" and config.vlm_options.dtype == "auto"

    def loss(stage: int, step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((config.seed, step))
        torch.manual_seed(int(rng.integers(1 << 62)))  # dropout depends on the number of the step only, too
        with torch.autocast(vlm.model.device.type, torch.bfloat16, enabled=use_autocast):
            return answer_loss(vlm, draw(config.batch_size, rng))

    optimizer = torch.optim.AdamW(parameters.values(), lr=config.stage.rate, weight_decay=config.weight_decay)
    vlm.model.train()
    run_stages([config.stage], {"trained": parameters}, optimizer, loss, folder, on_step)
    vlm.model.eval()


def draw_examples(sets: Sequence[LabelledFrames], count: int, rng: np.random.Generator) -> list[Example]:
    """Draw random frames with one question each, without frames that show nothing clearly.

    Args:
        sets: Sets of labelled frames of the same size.
        count: Number of examples.
        rng: Random generator.
    """
    names = sorted({name for frame_set in sets for name in frame_set.names})
    examples: list[Example] = []
    while len(examples) < count:
        batch = draw_frames(sets, count - len(examples), rng)
        for frame, view in zip(batch.frames, batch.views(), strict=True):
            examples += [(frame, question) for question in draw_questions(view, names, 1, rng)]
    return examples


def load_for_training(config: AdaptConfig) -> TrainedVLM:
    """Load the VLM for training, with an adapter for method=lora.

    With dtype "auto", trained weights are float32 on every device, because small steps would vanish in half precision.
    On a GPU, the frozen weights of LoRA and the computation of both methods are in half precision.

    Args:
        config: Config of the fine-tuning.

    Raises:
        UserError: There is no VLM of that name, it runs in a server, or no layer matches lora.target_modules.
    """
    options = config.vlm_options
    if options.server is not None:
        raise UserError("a VLM on a vLLM server cannot be trained; leave out vlm_options.server.")
    if config.method == "full":
        options = options.model_copy(update={"dtype": "float32" if options.dtype == "auto" else options.dtype})
        vlm = load_vlm(config.vlm, options)
        vlm.model.requires_grad_(True)
        return TrainedVLM(vlm)
    vlm = load_vlm(config.vlm, options)
    return TrainedVLM(vlm, add_lora(vlm.model, config.lora, config.seed))


def export(trained: TrainedVLM, config: AdaptConfig, folder: Path) -> None:
    """Write the trained VLM to `folder`/model, and for LoRA the adapter to `folder`/adapter, in peft's format.

    The saved weights have the dtype of the original checkpoint; the adapter is merged into them in float32. Do not use
    `trained` afterwards.

    Args:
        trained: VLM after training.
        config: Config of the fine-tuning, which names the original checkpoint.
        folder: Folder of the training.
    """
    model = trained.vlm.model.cpu().float()
    if trained.adapted is not None:
        save_lora(trained.adapted, folder / "adapter")
        model = trained.adapted.merge_and_unload()
    model.to(trained.vlm.config.dtype or torch.float32).save_pretrained(folder / "model")
    # load_vlm replaced the generation settings of the checkpoint; the original file, if any, is copied below.
    (folder / "model" / "generation_config.json").unlink(missing_ok=True)
    source = _beside_weights(locate(config.vlm))
    for file in _files(source):
        if file == source / "config.json":
            continue  # save_pretrained has written it; Prismatic's checkpoints have a different one
        (folder / "model" / file.relative_to(source)).parent.mkdir(exist_ok=True)
        shutil.copyfile(file, folder / "model" / file.relative_to(source))


def _beside_weights(path: str) -> Path:
    return Path(path) if Path(path).is_dir() else Path(snapshot_download(path, allow_patterns=list(BESIDE_WEIGHTS)))


def _files(source: Path) -> Iterator[Path]:
    """Yield the files of a checkpoint other than weights, one folder deep (for InstructBLIP's second tokenizer)."""
    for pattern in BESIDE_WEIGHTS:
        for file in (*source.glob(pattern), *source.glob(f"[!.]*/{pattern}")):
            if not file.name.endswith(".index.json"):  # lists the parts of split weights
                yield file
