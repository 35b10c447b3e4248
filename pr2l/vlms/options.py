"""Options of a VLM, the same for every family."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from typing_extensions import Self

from pr2l.core.config import Seed

Optimization = Literal["own_passes", "early_exit", "shared_vision", "shared_prefix", "fused_layers"]
OPTIMIZATIONS: tuple[Optimization, ...] = get_args(Optimization)


class Defaults(BaseModel):
    """Options of a VLM, the same for every family."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    RENAMED: ClassVar[dict[str, str]] = {"without": "disable"}

    # indices into output_hidden_states: 0 = embeddings, k = after layer k, -1 = after the last layer and the
    # final norm
    layers: tuple[int, ...] = Field(default=(-2, -1), min_length=1)  # the last two, as in the paper
    # how to generate the answer: greedy; none = no answer; sample = with `temperature` and `seed`, for chain of thought
    generation: Literal["greedy", "none", "sample"] = "greedy"
    new_tokens: PositiveInt = 8  # maximum number of generated tokens; 8 in the paper's notebook, 48 in its Habitat runs
    # minimum number of tokens of an answer; tokens after its end are masked. If it equals new_tokens, every answer has
    # this length
    min_new_tokens: NonNegativeInt = 0  # 8 in the paper's notebook, 32 in its Habitat runs
    temperature: PositiveFloat = 0.4  # temperature of sampling, as in the paper's Habitat runs
    seed: Seed = 0  # seed of sampling
    token_order: Literal["image_first", "text_first"] = "image_first"  # text_first: image tokens attend to the prompt
    # side in pixels of the square image that the vision tower reads; None = the checkpoint's. With aspect=native, the
    # area of this square is the maximum area of an image
    image_size: PositiveInt | None = None
    # how pr2l fits a frame that is not square: stretch = resize it to a square; letterbox = pad it on both sides to a
    # square, with the image processor's mean colour; native = keep its shape (Qwen-VL)
    aspect: Literal["stretch", "letterbox", "native"] = "stretch"
    # height and width of the frames in pixels, which determine the number of image tokens with aspect=native; None =
    # those of the encoder's environment
    frame_size: tuple[PositiveInt, PositiveInt] | None = None
    # special tokens that a prompt spells out, such as <|im_end|> or <image>: text = they are text like any other;
    # control = they control the model, for prompts that close a turn themselves
    special_tokens: Literal["text", "control"] = "text"
    chat_template: bool = True  # False: only image and text, even if the checkpoint has a chat template
    # compile language model and vision tower, which takes minutes, and pad batches to two sizes (vlms/compile.py). On a
    # GPU with CUDA graphs (not tested so far); on a CPU it saves little time. Cached passes, such as those of a causal
    # model that generates, are not compiled. With workers use step_groups=1; otherwise each group is padded to the
    # number of all environments
    compile: bool = False
    # seed of random weights, to measure the effect of pre-training. Initialisation, sizes, tokenizer and image
    # processor are those of the checkpoint's architecture; None = the checkpoint's weights
    random_weights: NonNegativeInt | None = Field(default=None, lt=2**63)
    # optimizations to turn off, to measure the effect of each one (docs/performance.md)
    disable: tuple[Optimization, ...] = ()
    # auto = float32 on a CPU, half precision on a GPU; fastest = as auto, but bfloat16 on a CPU with bfloat16 hardware;
    # int8 = linear layers quantised with a scale per token on a CPU (vlms/int8.py); `pr2l speed` measures the speed-up
    # and the difference of the states
    dtype: Literal["auto", "fastest", "float32", "bfloat16", "float16", "int8"] = "auto"
    device: str = "auto"  # a torch device; auto = the GPU if there is one
    # address of a running vLLM server, such as http://127.0.0.1:8000, which runs the forward passes (docs/vllm.md);
    # None = this process runs them
    server: str | None = Field(default=None, pattern="^https?://")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_new_tokens > self.new_tokens:
            raise ValueError(f"min_new_tokens={self.min_new_tokens} is more than new_tokens={self.new_tokens}")
        if self.frame_size is not None and self.aspect != "native":
            raise ValueError(f"frame_size is only for aspect=native, but aspect is {self.aspect}")
        return self
