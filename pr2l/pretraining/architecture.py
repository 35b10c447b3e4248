"""Architecture of the VLMs that come with pr2l: a small Florence-2 with random weights, tokenizer and image processor.

Florence-2 is a stock transformers architecture: a DaViT vision tower, whose strided convolutions learn small sprites
from little data, and a BART encoder-decoder. In the encoder, image tokens attend to the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    PreTrainedTokenizerFast,
)

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
IMAGE = "<image>"


class Architecture(BaseModel):
    """Sizes of the model; the defaults describe `tiny`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    RENAMED: ClassVar = {"longest": "max_tokens"}

    image_size: PositiveInt = 128  # side in pixels of the square to which frames are resized
    patch: PositiveInt = 8  # stride of the first convolution in pixels; 8 gives 16 x 16 cells, enough for small sprites
    tower_widths: tuple[int, ...] = (64, 128)  # channels of each stage; each further stage halves the grid, to 8 x 8
    tower_depths: tuple[int, ...] = (1, 3)  # blocks of each stage
    width: PositiveInt = 128  # width of the language model's hidden states
    encoder_layers: PositiveInt = 3  # layers of the language model's encoder
    decoder_layers: PositiveInt = 2  # layers of the language model's decoder
    heads: PositiveInt = 4  # attention heads per layer of the language model
    max_tokens: PositiveInt = 128  # maximum number of tokens of a prompt, including the image tokens

    @property
    def grid(self) -> int:
        """Number of cells along a side of the vision tower's last stage."""
        return self.image_size // self.patch // 2 ** (len(self.tower_widths) - 1)

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width in pixels to which frames are resized."""
        return self.image_size, self.image_size

    @property
    def window_size(self) -> int:
        """Side in cells of the windows within which cells attend to each other: all cells of the last stage."""
        return self.grid


class ScreenArchitecture(Architecture):
    """Sizes of a model for screens; the defaults describe `tiny_screens`.

    Letters are about 5 pixels wide and i and l about 2, so the first two blocks work at a stride of 4 pixels. Each of
    the 28 x 16 image tokens covers 16 x 16 pixels.
    """

    image_size: PositiveInt = 448  # height in pixels to which frames are resized
    image_width: PositiveInt = 252  # width in pixels to which frames are resized
    patch: PositiveInt = 4  # stride of the first convolution in pixels
    window: PositiveInt = 8  # side of the attention windows in cells
    tower_widths: tuple[int, ...] = (64, 128, 224)  # channels of each stage; each further stage halves the grid
    tower_depths: tuple[int, ...] = (2, 2, 1)  # blocks of each stage
    width: PositiveInt = 192  # width of the language model's hidden states
    encoder_layers: PositiveInt = 3  # layers of the language model's encoder
    decoder_layers: PositiveInt = 2  # layers of the language model's decoder
    heads: PositiveInt = 6  # attention heads per layer of the language model
    max_tokens: PositiveInt = 640  # maximum number of tokens of a prompt, including the image tokens

    @property
    def cell(self) -> int:
        """Side in pixels of the square that an image token covers."""
        return self.patch * 2 ** (len(self.tower_widths) - 1)

    @property
    def picture_size(self) -> tuple[int, int]:
        return self.image_size, self.image_width

    @property
    def window_size(self) -> int:
        return self.window


def build(architecture: Architecture, words: Sequence[str], folder: Path, seed: int) -> None:
    """Write a checkpoint with random weights in the format of any other checkpoint.

    Args:
        architecture: Sizes of the model.
        words: The whole vocabulary, in lower case. The tokenizer lower-cases a text and splits it at white space and
            punctuation; other words become <unk>.
        folder: Folder for the checkpoint.
        seed: Seed of the weights.
    """
    build_with(architecture, _tokenizer(words), folder, seed)


def build_with(architecture: Architecture, tokenizer: PreTrainedTokenizerFast, folder: Path, seed: int) -> None:
    """Write a checkpoint with random weights and a tokenizer.

    Args:
        architecture: Sizes of the model.
        tokenizer: The tokenizer, with the tokens of SPECIAL and IMAGE.
        folder: Folder for the checkpoint.
        seed: Seed of the weights.
    """
    torch.manual_seed(seed)
    model = Florence2ForConditionalGeneration(_config(architecture, tokenizer))
    _initialize(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _image_processor(architecture).save_pretrained(folder)


def _initialize(model: Florence2ForConditionalGeneration) -> None:
    """Draw the matrices of the language model with a standard deviation of 1/sqrt(inputs).

    The library's 0.02 suits widths near 1000. At a width of 128 it makes the outputs of each layer so small that the
    prompt has no effect for hundreds of steps: after 100 steps the language loss was 1.64, against 0.69 with
    1/sqrt(inputs). The vision tower keeps 0.02, because it has no norm at its end: with 1/sqrt(inputs) the loss of the
    warm-up started a hundred times as high.
    """
    projection = model.model.multi_modal_projector.image_projection
    for parameter in (*model.model.language_model.parameters(), *projection.parameters()):
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)


def _tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate([*SPECIAL.values(), IMAGE, *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL["unk_token"]))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    return PreTrainedTokenizerFast(tokenizer_object=core, extra_special_tokens={"image_token": IMAGE}, **SPECIAL)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per byte, which reads and writes every text as it is."""
    tokens = [*SPECIAL.values(), IMAGE, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, [], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        extra_special_tokens={"image_token": IMAGE},
        clean_up_tokenization_spaces=False,
        **SPECIAL,
    )


def _image_processor(architecture: Architecture) -> CLIPImageProcessorPil:
    height, width = architecture.picture_size
    return CLIPImageProcessorPil(
        size={"height": height, "width": width},
        do_center_crop=False,
        image_mean=[0.4] * 3,  # approximate mean and standard deviation of Doom's frames
        image_std=[0.25] * 3,
    )


def _config(architecture: Architecture, tokenizer: PreTrainedTokenizerFast) -> Florence2Config:
    ids: dict[str, Any] = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    language = _language_model(architecture, len(tokenizer)) | {"decoder_start_token_id": tokenizer.eos_token_id}
    image_token_id = tokenizer.get_vocab()[IMAGE]
    return Florence2Config(
        vision_config=_tower(architecture), text_config=language | ids, image_token_id=image_token_id, **ids
    )


def _tower(architecture: Architecture) -> dict[str, Any]:
    later_stages = len(architecture.tower_widths) - 1
    heads = [width // 32 for width in architecture.tower_widths]
    return {
        "depths": list(architecture.tower_depths),
        "embed_dim": list(architecture.tower_widths),
        "num_heads": heads,
        "num_groups": heads,
        "patch_size": [architecture.patch] + [3] * later_stages,
        "patch_stride": [architecture.patch] + [2] * later_stages,
        "patch_padding": [0] + [1] * later_stages,
        "patch_prenorm": [False] + [True] * later_stages,
        "window_size": architecture.window_size,
        "drop_path_rate": 0.0,
        "projection_dim": architecture.width,
    }


def _language_model(architecture: Architecture, vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": "bart",
        "vocab_size": vocabulary,
        "d_model": architecture.width,
        "encoder_layers": architecture.encoder_layers,
        "decoder_layers": architecture.decoder_layers,
        "encoder_attention_heads": architecture.heads,
        "decoder_attention_heads": architecture.heads,
        "encoder_ffn_dim": 3 * architecture.width,
        "decoder_ffn_dim": 2 * architecture.width,
        "max_position_embeddings": architecture.max_tokens,
        "dropout": 0.0,  # not needed, because every step uses new frames
        "forced_eos_token_id": None,
    }
