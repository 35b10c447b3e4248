"""Prismatic, the paper's VLM in Habitat: DINOv2 and SigLIP side by side, a projection, then Llama 2.

    BOS [DINOv2 and SigLIP of each patch] In: where is it ?\\nOut:

A folder that TRI-ML released, the run of a trainer, is read as it is:

    config.json                             the trainer's own config, with the names of the parts
    checkpoints/latest-checkpoint.pt        the trained weights: the projection and Llama
    Llama-2-7b-hf/                          config and tokenizer
    vit_large_patch14_reg4_dinov2.lvd142m/  model.safetensors of timm: the towers were not trained
    vit_so400m_patch14_siglip_224.webli/

The last three are read from the Hub if the folder does not contain them. Written from TRI-ML/prismatic-vlms @ 874c5bb
(models/load.py, models/vlms/prismatic.py, models/backbones, util/nn_utils.py); for timm see timm_towers.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaModel,
    SiglipImageProcessorPil,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.hub import cached_file

from pr2l.core.errors import UnknownName, UserError, first_line
from pr2l.core.types import Frames
from pr2l.vlms import checkpoint, timm_towers
from pr2l.vlms.base import VLM, Defaults
from pr2l.vlms.pixels import Pixels

__all__ = ["MODEL_TYPES", "Defaults", "load"]

MODEL_TYPES = ("prismatic",)

CHECKPOINT = "checkpoints/latest-checkpoint.pt"
DINO = "timm/vit_large_patch14_reg4_dinov2.lvd142m"
TOWERS = {  # vision_backbone_id: side of the picture in pixels, the tower beside DINOv2
    "dinosiglip-vit-so-224px": (224, "timm/vit_so400m_patch14_siglip_224.webli"),
    "dinosiglip-vit-so-384px": (384, "timm/vit_so400m_patch14_siglip_384.webli"),
}
LLAMAS = {"llama2-7b-pure": "meta-llama/Llama-2-7b-hf", "llama2-13b-pure": "meta-llama/Llama-2-13b-hf"}
TRAINED = {  # prefixes of trained weights -> transformers' names
    "projector": "model.multi_modal_projector",
    "llm.model": "model.language_model",
    "llm.lm_head": "lm_head",
}


class PrismaticConfig(LlavaConfig):
    """LLaVA's config with a second vision tower.

    Attributes:
        vision_config: Config of SigLIP.
        dino_config: Config of DINOv2.
        words: Hub id of Llama's tokenizer.
    """

    model_type = "prismatic"
    sub_configs_defaults = LlavaConfig.sub_configs_defaults | {
        "dino_config": LlavaConfig.sub_configs_defaults["vision_config"]
    }

    dino_config: Any = None
    words: str = ""


class PrismaticModel(LlavaModel):
    """LLaVA with two vision towers, which end before their last block, because only the input of that block is used."""

    def __init__(self, config: PrismaticConfig) -> None:
        super().__init__(config)
        self.dino_tower = AutoModel.from_config(config.dino_config)
        self.dino_tower.layernorm = self.vision_tower.post_layernorm = nn.Identity()
        width = config.dino_config.hidden_size + config.vision_config.hidden_size
        text_width = config.text_config.hidden_size
        self.multi_modal_projector = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, text_width),
            nn.GELU(),
            nn.Linear(text_width, text_width),
        )

    def get_image_features(self, pixel_values: Tensor, **ignored: Any) -> BaseModelOutputWithPooling:
        """Return the projected features of both towers.

        Args:
            pixel_values: [B, 6, S, S], three channels for DINOv2 and three for SigLIP.
            ignored: Options of LLaVA's method, without effect.

        Returns:
            An output whose pooler_output is a tuple of B tensors [N, D].
        """
        for_dino, for_siglip = pixel_values.split(3, dim=1)
        first_patch = 1 + self.config.dino_config.num_register_tokens
        dino = self.dino_tower(for_dino).last_hidden_state[:, first_patch:]
        siglip = self.vision_tower(for_siglip).last_hidden_state
        features = self.multi_modal_projector(torch.cat([dino, siglip], dim=-1))
        return BaseModelOutputWithPooling(pooler_output=tuple(features))


class PrismaticForConditionalGeneration(LlavaForConditionalGeneration):
    """LLaVA with a head for logits, on a `PrismaticModel`."""

    config_class = PrismaticConfig

    def __init__(self, config: PrismaticConfig) -> None:
        super().__init__(config)
        self.model = PrismaticModel(config)
        self.post_init()


class Prismatic(VLM):
    """Family Prismatic: image tokens come after BOS and before the text."""

    can_share_prefix = True

    @staticmethod
    def read_config(path: str) -> Any:
        run = _run(path)
        config = PrismaticConfig.from_pretrained(path) if run is None else run_config(path, run)
        config.name_or_path = path
        return config

    def read_weights(self, path: str, dtype: torch.dtype) -> Any:
        config = self.short_config() or self.config
        run = _run(path)
        with checkpoint.surplus_unreported():
            if run is None:
                return PrismaticForConditionalGeneration.from_pretrained(path, dtype=dtype, config=config)
            model, report = PrismaticForConditionalGeneration.from_pretrained(
                None, config=config, state_dict=run_weights(path, run), dtype=dtype, output_loading_info=True
            )
        if missing := sorted(report["missing_keys"]):  # they would be random numbers
            raise UserError(
                f"{path!r} is not a complete Prismatic model: {len(missing)} weights are missing, such as {missing[0]}."
            )
        return model

    def read_processors(self, path: str) -> None:
        self.tokenizer = checkpoint.read_tokenizer(_place(path, self.config.words))

    def key(self) -> dict[str, Any]:
        """Return the key of a VLM, with the commits of the parts that come from the Hub."""
        path = self.config.name_or_path
        return super().key() | {"parts": [_file(path, part, name).parent.name for part, name in self._parts]}

    @property
    def _parts(self) -> list[tuple[str, str]]:
        run = _run(self.config.name_or_path)
        towers = [] if run is None else [DINO, TOWERS[run["vision_backbone_id"]][1]]
        return [(self.config.words, "config.json"), *((tower, "model.safetensors") for tower in towers)]

    def layout(self, text: str) -> list[int]:
        written = f"In: {text.strip()}\nOut:" if self.options.chat_template else text
        words = self.encode(written, add_special_tokens=False)
        return [self.tokenizer.bos_token_id, *[self.image_token_id] * self.image_length(), *words]

    def pixels(self, frames: Frames) -> dict[str, Tensor]:
        if self.options.aspect == "stretch":
            frames = self.fit(frames)  # once for both towers
        return {"pixel_values": torch.cat([pixels(frames) for pixels in self._tower_pixels], dim=1)}

    def fit(self, frames: Frames) -> Frames:
        return self._tower_pixels[0].fit(frames)

    @cached_property
    def _tower_pixels(self) -> list[Pixels]:
        """Preprocessing for DINOv2 and for SigLIP; these models were trained with stretching, "resize-naive"."""
        as_timm = SiglipImageProcessorPil(image_mean=IMAGENET_DEFAULT_MEAN, image_std=IMAGENET_DEFAULT_STD)
        size, model, letterbox = self.image_size, self.model, self.options.aspect == "letterbox"
        return [
            Pixels(processor, size, model.device, model.dtype, letterbox=letterbox)
            for processor in (as_timm, SiglipImageProcessorPil())
        ]


# A run of the trainer.


def _run(path: str) -> dict[str, Any] | None:
    """Return the trainer's description of the model in config.json; None if save_pretrained wrote the checkpoint."""
    return checkpoint.read_values(path).get("model")


def run_config(path: str, run: Mapping[str, Any]) -> PrismaticConfig:
    """Return the config of a trainer's run, with sizes from the weights.

    Args:
        path: Folder of the run, or its Hub id.
        run: The trainer's description of the model, from config.json.

    Raises:
        UserError: The towers or the language model are not supported, or a part is missing.
    """
    (size, siglip_id), llama = _known(run, "vision_backbone_id", TOWERS), _known(run, "llm_backbone_id", LLAMAS)
    dino, siglip = _towers(path, siglip_id)
    text = checkpoint.read_config(str(_file(path, llama, "config.json").parent))
    text.vocab_size = (text.vocab_size // 64 + 1) * 64  # with a token for padding, rounded up to a multiple of 64
    return PrismaticConfig(
        text_config=text,
        vision_config=timm_towers.siglip_config(siglip, size),
        dino_config=timm_towers.dino_config(dino, size),
        image_token_index=text.vocab_size - 1,  # the id of no word
        words=llama,
    )


def run_weights(path: str, run: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return all weights of a trainer's run, with the names of PrismaticForConditionalGeneration.

    Args:
        path: Folder of the run, or its Hub id.
        run: The trainer's description of the model, from config.json.
    """
    size, siglip_id = TOWERS[run["vision_backbone_id"]]
    dino, siglip = _towers(path, siglip_id)
    towers = {
        "dino_tower": timm_towers.dino_weights(dino, size),
        "vision_tower": timm_towers.siglip_weights(siglip, size),
    }
    weights = {f"model.{tower}.{name}": weight for tower, part in towers.items() for name, weight in part.items()}
    trained = _trained(path)
    learned = {**trained.get("projector", {}), **trained.get("llm_backbone", {})}
    return weights | {timm_towers.renamed(name, TRAINED): weight for name, weight in learned.items()}


def _towers(path: str, siglip_id: str) -> list[dict[str, Tensor]]:
    return [load_file(_file(path, part, "model.safetensors")) for part in (DINO, siglip_id)]


def _trained(path: str) -> dict[str, dict[str, Tensor]]:
    """Read the trained weights of a run. A pickle with anything but tensors is refused, and never executed."""
    try:
        file = cached_file(path, CHECKPOINT)
        weights: dict[str, Any] = torch.load(file, map_location="cpu", mmap=True, weights_only=True).get("model", {})
    except OSError as error:
        raise UserError(f"{path!r} is the folder of a Prismatic run, but has no weights {CHECKPOINT}.") from error
    except UnpicklingError as error:
        reason = first_line(error)
        raise UserError(
            f"{CHECKPOINT} of {path!r} contains more than tensors, so pr2l does not read it: {reason}"
        ) from error
    return weights


# Locations of the parts.


def _known(run: Mapping[str, Any], key: str, table: Mapping[str, Any]) -> Any:
    if run[key] not in table:
        raise UnknownName(f"{key}s that can be read", run[key], table, "The paper's run is prism-dinosiglip-224px+7b.")
    return table[run[key]]


def _place(path: str, hub_id: str) -> str:
    """Return the location of a part of the model: the folder of its name inside the checkpoint, or else its Hub id."""
    beside = Path(path) / hub_id.split("/")[1]
    return str(beside) if beside.is_dir() else hub_id


def _file(path: str, hub_id: str, name: str) -> Path:
    try:
        return Path(cached_file(_place(path, hub_id), name))
    except OSError as error:
        beside = Path(path) / hub_id.split("/")[1]
        raise UserError(
            f"{path!r} needs {name} of {hub_id}, which is not in {str(beside)!r}, and the download from the Hugging"
            f" Face Hub failed. On a machine with a network, run `hf download {hub_id} --include"
            f" '*{Path(name).suffix}' --local-dir '{beside}'`; for Llama 2 you have to request access on its page"
            " first."
        ) from error


load = Prismatic.load
