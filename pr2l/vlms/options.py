"""Options of a VLM, the same for every family."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from typing_extensions import Self

from pr2l.core.config import Seed

Optimization = Literal["own_passes", "early_exit", "shared_vision", "shared_prefix"]
OPTIMIZATIONS: tuple[Optimization, ...] = get_args(Optimization)


class Defaults(BaseModel):
    """Options of a VLM, the same for every family."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    RENAMED: ClassVar[dict[str, str]] = {"without": "disable"}

    # indices into output_hidden_states: 0 = embeddings, k = after layer k, -1 = after the last layer and the
    # final norm
    layers: tuple[int, ...] = Field(default=(-2, -1), min_length=1)  # the last two, as in the paper
    generation: Literal["greedy", "none", "sample"] = "greedy"  # sample = chain of thought
    new_tokens: PositiveInt = 8  # tokens to generate, as in the authors' notebook (48 in their Habitat runs)
    # smallest number of tokens of an answer; tokens after its end are masked. If it equals new_tokens, every answer has
    # this length
    min_new_tokens: NonNegativeInt = 0  # 8 in the authors' notebook, 32 in their Habitat runs
    temperature: PositiveFloat = 0.4  # of sampling, as in the paper's Habitat runs
    seed: Seed = 0  # of sampling
    token_order: Literal["image_first", "text_first"] = "image_first"  # text first: image tokens attend to the prompt
    # side in pixels of the square that the vision tower reads; None = the checkpoint's. With aspect=native, the area of
    # this square is the largest area of a picture
    image_size: PositiveInt | None = None
    # how a frame that is not square becomes the picture that the vision tower reads: stretch = squeezed into a square;
    # letterbox = padded to a square with the image processor's mean colour, centred; native = its own shape (Qwen-VL)
    aspect: Literal["stretch", "letterbox", "native"] = "stretch"
    # height and width of the frames, for aspect=native, where the number of image tokens follows from them; None = an
    # encoder takes them from its environment
    frame_size: tuple[PositiveInt, PositiveInt] | None = None
    chat_template: bool = True  # False: only image and text, even if the checkpoint has a chat template
    # compile language model and vision tower, which takes minutes, and pad batches to two sizes (compile.py). On a GPU
    # with CUDA graphs (not tested so far); on a CPU it gains little. Cached passes, such as the text stack of a causal
    # model that generates, are not compiled. With workers use groups=1, or each group is padded to all environments
    compile: bool = False
    # seed of random weights, initialised as at the start of the architecture's training, to measure the effect of
    # pre-training. Sizes, tokenizer and image processor are the checkpoint's; None = its weights too
    random_weights: NonNegativeInt | None = Field(default=None, lt=2**63)
    # optimizations of pr2l/vlms/backends/local.py to switch off, to measure the effect of each one
    disable: tuple[Optimization, ...] = ()
    # auto = float32 on a CPU, half precision on a GPU; fastest = as auto, but bfloat16 on a CPU with bfloat16 hardware;
    # int8 = linear layers quantised, on a CPU; the rows of a batch then share a scale, so a row's states depend a
    # little on the other rows. `pr2l speed` measures the gain and the similarity of the states
    dtype: Literal["auto", "fastest", "float32", "bfloat16", "float16", "int8"] = "auto"
    device: str = "auto"  # auto = the GPU if there is one
    # address of a running `vllm serve`, such as http://127.0.0.1:8000, which holds the weights and runs the passes
    # (pr2l/vlms/backends/vllm.py, docs/vllm.md); None = this process runs them
    server: str | None = Field(default=None, pattern="^https?://")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_new_tokens > self.new_tokens:
            raise ValueError(f"min_new_tokens={self.min_new_tokens} is more than new_tokens={self.new_tokens}")
        if self.frame_size is not None and self.aspect != "native":
            raise ValueError(f"frame_size is only for aspect=native, and aspect is {self.aspect}")
        return self
