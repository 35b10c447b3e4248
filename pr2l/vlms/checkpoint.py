"""Reads the parts of a checkpoint: config, model, tokenizer, image processor, chat template.

Families read the parts one by one; only `generic` takes a whole processor, since that often builds a video
processor too, which needs torchvision.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
)
from transformers.utils.hub import cached_file

from pr2l.core import digest
from pr2l.core.errors import UserError, did_you_mean
from pr2l.vlms.allocator import keep_freed_memory

WEIGHTS = Path(__file__).parent / "weights"
READ = {".safetensors", ".bin", ".pt", ".json", ".jinja", ".model", ".txt"}  # what may matter of a checkpoint's files


def locate(name: str) -> str:
    """The folder or Hub id behind a VLM's name; for one that ships with pr2l its folder beside this file."""
    return str(WEIGHTS / name) if name in shipped() else name


def shipped() -> list[str]:
    """The names of the VLMs whose weights ship with pr2l."""
    return sorted(config.parent.name for config in WEIGHTS.glob("*/config.json"))


def source(path: str) -> dict[str, str]:
    """Which weights these are: a folder's last name and a digest of its files, or a Hub id and its commit.

    The digest reads all weights, which takes about a second per gigabyte.
    """
    folder = Path(path).resolve()
    if folder.is_dir():
        inside = [file for file in folder.rglob("*") if file.suffix in READ and file.is_file()]
        return {"name": folder.name, "revision": f"sha256 {digest.of_files(folder, inside)}"}
    config = cached_file(path, "config.json", local_files_only=True)  # .../snapshots/<commit>/config.json
    return {"name": path, "revision": f"commit {Path(config).parent.name}"}


def model_type(path: str) -> str | None:
    """Which architecture a checkpoint says it is; None = it does not say. Raises as read_config does.

    A run of Prismatic's trainer has the trainer's own config.json, which does not.
    """
    values = read_values(path)
    return "prismatic" if "vision_backbone_id" in values.get("model", ()) else values.get("model_type")


def read_values(path: str) -> dict[str, Any]:
    """What config.json says; UserError if there is no such folder or Hub model, or it cannot be reached."""
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise UserError(f"the folder {path!r} holds no VLM: it has no config.json.")
    values: dict[str, Any] = _read(path, "config", lambda: PreTrainedConfig.get_config_dict(path)[0])
    return values


def read_config(path: str) -> Any:
    """The checkpoint's config. Raises UserError where it cannot be read."""
    return _read(path, "config", lambda: AutoConfig.from_pretrained(path))


def read_model(
    path: str, device: str, dtype: str, read: Callable[[str, torch.dtype], Any], random_weights: int | None = None
) -> Any:
    """The model that `read` gives, for inference; with dtype int8, its linear layers quantised.

    device, dtype, random_weights: as in Defaults; `read` is given the checkpoint's path and the type of its weights.
    """
    chosen = torch.device(_device(device))
    if chosen.type == "cpu":
        keep_freed_memory()
    precision = _dtype(dtype, chosen)
    model = _read(path, "model", lambda: read(path, precision))
    if random_weights is not None:
        _draw_weights(model, random_weights)
    model = model.eval().to(chosen)
    return _with_int8_layers(model) if dtype == "int8" else model


@torch.no_grad()
def _draw_weights(model: Any, seed: int) -> None:
    """Replaces every weight as if the model had just been made; torch's generators stay as they were."""
    for part in (*model.modules(), *model.parameters(), *model.buffers()):
        part._is_hf_initialized = False  # transformers draws nothing that it has read
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # a GPU's generator stays as it is
        for weight in model.parameters():  # first, as some classes leave weights of their own alone
            weight.normal_(0.0, 0.02)
        model.init_weights()


def read_generation_config(path: str, config: Any) -> Any:
    """What `generate` would go by; like the model's own, made from the config where the checkpoint holds none."""
    try:
        return GenerationConfig.from_pretrained(path)
    except OSError:
        return GenerationConfig.from_model_config(config)


def read_final_norm(path: str, config: Any) -> torch.nn.Module:
    """The language model's last norm, in float32, without its other weights. UserError if it is not to be found."""
    with torch.device("meta"):
        norm = getattr(AutoModelForImageTextToText.from_config(config).get_decoder(), "norm", None)
    files = _read(path, "safetensors weights", lambda: _weight_files(path))
    # What stands before the name has changed over the years; vision towers have norms of that name as well.
    found = [name for name in files if name.endswith(".norm.weight") and "vis" not in name]
    if norm is None or len(found) != 1:
        raise UserError(f"{path!r} has no final norm that could be read alone; leave its last layer out of layers.")
    with safe_open(cached_file(path, files[found[0]]), "pt") as weights:
        norm.load_state_dict({"weight": weights.get_tensor(found[0]).float()}, assign=True)
    return norm.requires_grad_(False)


def _weight_files(path: str) -> dict[str, str]:
    """Name of a weight -> the file that holds it."""
    index = cached_file(path, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False)
    if index is not None:
        return dict(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"])
    with safe_open(cached_file(path, "model.safetensors"), "pt") as weights:
        return dict.fromkeys(weights.keys(), "model.safetensors")


def read_weights(path: str, dtype: torch.dtype, config: Any | None = None) -> Any:
    """The unmodified model of transformers' own classes, on the CPU.

    config: of a model with fewer layers than the checkpoint, the others of which are not read; None = all of it.
    """
    with nullcontext() if config is None else surplus_unreported():
        return AutoModelForImageTextToText.from_pretrained(path, dtype=dtype, config=config)


def read_tokenizer(path: str, subfolder: str = "") -> Any:
    """The tokenizer, from the checkpoint or a folder inside it."""
    return _read(path, "tokenizer", lambda: AutoTokenizer.from_pretrained(path, subfolder=subfolder))


def read_image_processor(path: str) -> Any:
    """The image processor, in the form that needs no torchvision."""
    return _read(path, "image processor", lambda: AutoImageProcessor.from_pretrained(path, backend="pil"))


def read_processor(path: str) -> Any:
    """The whole processor, for a family of which nothing else is known."""
    return _read(path, "processor", lambda: AutoProcessor.from_pretrained(path, backend="pil"))


def read_chat_template(path: str, tokenizer: Any) -> str | None:
    """The Jinja text that lays out a conversation, or None if the checkpoint has none."""
    if tokenizer.chat_template is not None:
        return str(tokenizer.chat_template)
    # Older checkpoints keep it in a file that only the processor would read.
    values = read_json(path, "chat_template.json")
    return None if values is None else str(values["chat_template"])


def read_json(path: str, name: str) -> Any:
    """What a JSON file of a checkpoint holds; None where there is no such file, or it cannot be asked for."""
    file = cached_file(
        path, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return None if file is None else json.loads(Path(file).read_text(encoding="utf-8"))


def _read(path: str, part: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except SafetensorError as error:  # half a download, or a pointer that git-lfs left
        raise UserError(f"the {part} of {path!r} is no whole .safetensors file ({error}); fetch it anew") from error
    except OSError as error:
        raise UserError(_absent(path, part, _first_line(error))) from error
    except (ImportError, ValueError) as error:
        raise UserError(
            f"transformers {transformers.__version__} cannot read the {part} of {path!r}: {_first_line(error)}"
        ) from error


@contextmanager
def surplus_unreported() -> Iterator[None]:
    """Without transformers' report on weights that have no place in the model; one on anything else still comes."""
    logger = logging.getLogger("transformers.modeling_utils")

    def tells_more(record: logging.LogRecord) -> bool:
        said = record.getMessage()
        return "UNEXPECTED" not in said or any(word in said for word in ("MISSING", "MISMATCH", "CONVERSION"))

    logger.addFilter(tells_more)
    try:
        yield
    finally:
        logger.removeFilter(tells_more)


def _absent(path: str, part: str, reason: str) -> str:
    if Path(path).is_dir():
        return f"the folder {path!r} has no usable {part}: {reason}"
    return (
        f"the VLM {path!r} is neither a folder on this machine nor a model that could be fetched from the"
        f" Hugging Face Hub.{did_you_mean(path, shipped())} ({reason}) Check the spelling and the network."
        f" Without a network: use {' or '.join(map(repr, shipped()))}, which ship with pr2l, or a local folder, made"
        " elsewhere with `hf download MODEL --local-dir FOLDER`, as vlm=FOLDER."
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device={name!r}: torch sees no GPU here; use device=auto or device=cpu.")
    return name


def _dtype(name: str, device: torch.device) -> torch.dtype:
    """Of the weights as loaded; auto on a GPU is the best half precision that it has."""
    if name == "int8" and device.type != "cpu":
        raise UserError(f"dtype=int8 is for CPUs, and the device is {device.type}; use dtype=auto or device=cpu.")
    if device.type == "cpu" and name in ("auto", "int8", "fastest"):
        return torch.bfloat16 if name == "fastest" and cpu_has_bfloat16() else torch.float32
    if name in ("auto", "fastest"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices itself; one that emulates it takes 2.5 times as long as float32."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in asked)


def _with_int8_layers(model: Any) -> Any:
    """Linear layers with int8 weights; activations are quantised as they come (dynamic quantisation)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated for torchao, which is slower at this on a CPU
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8, inplace=True)
