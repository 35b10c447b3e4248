"""Functions that read the parts of a checkpoint: config, model, tokenizer, image processor, chat template.

Families read the parts one by one. Only `generic` reads a whole processor, see processor.py.
"""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
import transformers
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
)
from transformers.utils.hub import cached_file
from transformers.utils.logging import set_tqdm_hook

from pr2l.core import digest
from pr2l.core.errors import UserError, did_you_mean, first_line
from pr2l.vlms.allocator import keep_freed_memory
from pr2l.vlms.int8 import with_int8_layers

WEIGHTS = Path(__file__).parent / "weights"
READ = {".safetensors", ".bin", ".pt", ".json", ".jinja", ".model", ".txt"}  # files that states may depend on
# Earlier names of pretraining's reports. Digests use them, so that embeddings stored under such a digest are found.
EARLIER_NAMES = {"evaluation.json": "exam.json", "evaluation_before.json": "exam_before.json"}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
CONNECT_SECONDS = 5
BAR_SECONDS = 2.0  # the weights of small models are read in less, and need no progress bar
# Without it, transformers asks on a terminal whether to run Python code of the checkpoint's author.
NO_CODE: dict[str, Any] = {"trust_remote_code": False}
NEEDS_CODE = (
    "needs Python code that comes with the checkpoint, and pr2l runs no such code. Use a checkpoint whose architecture"
    " is in transformers; many models have a converted one, often named `...-hf`."
)


def locate(name: str) -> str:
    """Return the folder or Hub id for the name of a VLM; a VLM that ships with pr2l is in the folder `weights`.

    Args:
        name: "tiny" or another name of `shipped`; any other name is returned unchanged, without a check.
    """
    return str(WEIGHTS / name) if name in shipped() else name


def shipped() -> list[str]:
    """Return the names of the VLMs whose weights ship with pr2l."""
    return sorted(config.parent.name for config in WEIGHTS.glob("*/config.json"))


def source(path: str) -> dict[str, str]:
    """Return the name and the revision of the weights: a digest of a folder's files, or the commit of a Hub id.

    The digest reads all weights, which takes about a second per gigabyte.

    Args:
        path: A local folder, or a Hub id whose config.json is in the cache.

    Returns:
        {"name": ..., "revision": "sha256 ..." or "commit ..."}.
    """
    folder = Path(path).resolve()
    if folder.is_dir():
        inside = [file for file in folder.rglob("*") if file.suffix in READ and file.is_file()]
        return {"name": folder.name, "revision": f"sha256 {digest.of_files(folder, inside, EARLIER_NAMES)}"}
    config = cached_file(path, "config.json", local_files_only=True)  # .../snapshots/<commit>/config.json
    return {"name": path, "revision": f"commit {Path(config).parent.name}"}


def model_type(path: str) -> str | None:
    """Return a checkpoint's `model_type`; None if its config has none.

    The config.json of a run of Prismatic's trainer has no model_type; for it the result is "prismatic".

    Args:
        path: A local folder or a Hub id.

    Raises:
        UserError: As in `read_values`.
    """
    values = read_values(path)
    return "prismatic" if "vision_backbone_id" in values.get("model", ()) else values.get("model_type")


def read_values(path: str) -> dict[str, Any]:
    """Return the values of config.json.

    Args:
        path: A local folder or a Hub id, whose file is downloaded if it is not in the cache.

    Raises:
        UserError: There is no such folder or Hub model, or it cannot be read or downloaded.
    """
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise UserError(f"the folder {path!r} contains no VLM: it has no config.json.")
    if not Path(path).is_dir():
        _check_hub(path)
    values: Any = read_part(path, "config", lambda: PreTrainedConfig.get_config_dict(path)[0])
    if not isinstance(values, dict):
        raise UserError(f"config.json of {path!r} is not a JSON object; download it again.")
    return values


def _check_hub(path: str) -> None:
    """Raise UserError at once if the Hub cannot be reached; its client would retry for half a minute first."""
    if constants.is_offline_mode():
        return  # no retries
    if not HUB_ID.fullmatch(path):
        raise UserError(_absent(path, "config", "A Hub id has the form OWNER/NAME."))
    if try_to_load_from_cache(path, "config.json") is not None or getproxies():
        return
    host = urlsplit(constants.ENDPOINT)
    try:
        port = host.port or {"http": 80}.get(host.scheme, 443)
        socket.create_connection((str(host.hostname), port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(_absent(path, "config", f"{constants.ENDPOINT} cannot be reached: {error}.")) from error


def read_config(path: str) -> Any:
    """Read the checkpoint's config.

    Args:
        path: A local folder or a Hub id.

    Returns:
        A transformers config of the architecture's class.

    Raises:
        UserError: It cannot be read.
    """
    return read_part(path, "config", lambda: AutoConfig.from_pretrained(path, **NO_CODE))


def read_model(
    path: str, device: str, dtype: str, read: Callable[[str, torch.dtype], Any], random_weights: int | None = None
) -> Any:
    """Read a model for inference, with frozen weights.

    Args:
        path: A local folder or a Hub id.
        device: As in Defaults.
        dtype: As in Defaults; with int8, linear layers are quantised.
        read: Function from the path and the type of the weights to the model on the CPU.
        random_weights: As in Defaults: seed of random weights; None = the checkpoint's weights.

    Raises:
        UserError: The model cannot be read, or the device or the dtype is not available.
    """
    chosen = torch.device(find_device(device))
    if chosen.type == "cpu":
        keep_freed_memory()
    precision = _dtype(dtype, chosen)
    model = read_part(path, "model", lambda: read(path, precision))
    if random_weights is not None:
        _draw_weights(model, random_weights)
    model = model.eval().requires_grad_(False).to(chosen)
    return with_int8_layers(model) if dtype == "int8" else model


@torch.no_grad()
def _draw_weights(model: Any, seed: int) -> None:
    """Initialise every weight anew; the state of torch's generators is kept."""
    for part in (*model.modules(), *model.parameters(), *model.buffers()):
        part._is_hf_initialized = False  # transformers does not draw weights that it has read
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # a GPU's generator stays as it is
        for weight in model.parameters():  # first, as init_weights of some classes skips weights
            weight.normal_(0.0, 0.02)
        model.init_weights()


def read_generation_config(path: str, config: Any) -> Any:
    """Read the generation config; if the checkpoint has none, derive it from the config, as transformers does.

    Args:
        path: A local folder or a Hub id.
        config: Config of the model.

    Raises:
        UserError: It is damaged.
    """
    name = "generation_config.json"
    if read_json(path, name) is None:
        return GenerationConfig.from_model_config(config)
    return read_part(path, name, lambda: GenerationConfig.from_pretrained(path))


def read_final_norm(path: str, config: Any) -> torch.nn.Module:
    """Read the language model's last norm alone, in float32.

    Args:
        path: A local folder or a Hub id.
        config: Config of the model.

    Raises:
        UserError: The weights have no final norm, or more than one candidate.
    """
    with torch.device("meta"):
        norm = getattr(AutoModelForImageTextToText.from_config(config).get_decoder(), "norm", None)
    files = read_part(path, "safetensors weights", lambda: _weight_files(path))
    # The prefix of the name depends on transformers' version; vision towers have norms of that name as well.
    names = [name for name in files if name.endswith(".norm.weight") and "vis" not in name]
    if norm is None or len(names) != 1:
        raise UserError(
            f"the final norm of {path!r} cannot be read separately; leave out its last layer in vlm_options.layers."
        )
    with safe_open(cached_file(path, files[names[0]]), "pt") as weights:
        norm.load_state_dict({"weight": weights.get_tensor(names[0]).float()}, assign=True)
    return norm.requires_grad_(False)


def _weight_files(path: str) -> dict[str, str]:
    """Map the name of each weight to the file that holds it."""
    index = cached_file(path, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False)
    if index is not None:
        return dict(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"])
    with safe_open(cached_file(path, "model.safetensors"), "pt") as weights:
        return dict.fromkeys(weights.keys(), "model.safetensors")


def read_weights(path: str, dtype: torch.dtype, config: Any | None = None) -> Any:
    """Read the unmodified model with transformers' own class, on the CPU.

    Args:
        path: A local folder or a Hub id.
        dtype: Type of the weights.
        config: Config of a model with fewer layers than the checkpoint, whose other layers are not read; None = all
            layers.
    """
    with nullcontext() if config is None else surplus_unreported():
        return AutoModelForImageTextToText.from_pretrained(path, dtype=dtype, config=config, **NO_CODE)


def read_tokenizer(path: str, subfolder: str = "") -> Any:
    """Read the tokenizer.

    Args:
        path: A local folder or a Hub id.
        subfolder: Folder inside the checkpoint; "" = the checkpoint itself.

    Raises:
        UserError: It cannot be read.
    """
    return read_part(path, "tokenizer", lambda: AutoTokenizer.from_pretrained(path, subfolder=subfolder, **NO_CODE))


def read_image_processor(path: str) -> Any:
    """Read the image processor, if there is one in its PIL version; neither version needs torchvision.

    Args:
        path: A local folder or a Hub id.

    Raises:
        UserError: It cannot be read.
    """
    return read_part(path, "image processor", lambda: _image_processor(path))


def video_settings(path: str, image_processor: Any) -> Any:
    """Return the settings with which a checkpoint converts the pixels of videos.

    They are those of its video processor, which itself needs torchvision; without one, those of its image processor.

    Args:
        path: A local folder or a Hub id.
        image_processor: The image processor.
    """
    nested = (read_json(path, "processor_config.json") or {}).get("video_processor")
    settings = nested or read_json(path, "video_preprocessor_config.json") or {}
    names = ("resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    return SimpleNamespace(**{name: settings.get(name, getattr(image_processor, name)) for name in names})


def _image_processor(path: str) -> Any:
    try:
        return AutoImageProcessor.from_pretrained(path, backend="pil", **NO_CODE)
    except (ImportError, ValueError) as error:
        if missing_package(error) != "torchvision" or (name := _image_processor_name(path)) is None:
            raise
        from pr2l.vlms.torchvision_free import real_class

        return real_class(getattr(transformers, name)).from_pretrained(path, **NO_CODE)


def _image_processor_name(path: str) -> str | None:
    """Return the class of the image processor that a checkpoint's files name; None = they do not name one."""
    whole = read_json(path, "processor_config.json") or {}
    values = whole.get("image_processor") or read_json(path, "preprocessor_config.json") or {}
    name = str(values.get("image_processor_type", "")).removesuffix("Fast")
    return name if hasattr(transformers, name or " ") else None


def read_chat_template(path: str, tokenizer: Any) -> str | None:
    """Read the Jinja template of conversations.

    Args:
        path: A local folder or a Hub id.
        tokenizer: Tokenizer of the checkpoint, which may contain the template.

    Returns:
        The template; None if the checkpoint has none.
    """
    if tokenizer.chat_template is not None:
        return str(tokenizer.chat_template)
    # Older checkpoints have it in a file that only the processor reads.
    name = "chat_template.json"
    values = read_json(path, name)
    return None if values is None else read_part(path, name, lambda: str(values["chat_template"]))


def read_json(path: str, name: str) -> Any:
    """Read a JSON file of a checkpoint.

    Args:
        path: A local folder or a Hub id.
        name: Name of the file in the checkpoint.

    Returns:
        Its content; None if there is no such file, or the Hub cannot be reached.

    Raises:
        UserError: The file is damaged.
    """
    file = cached_file(
        path, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    if file is None:
        return None
    return read_part(path, name, lambda: json.loads(Path(file).read_text(encoding="utf-8")))


def read_part(path: str, part: str, read: Callable[[], Any]) -> Any:
    """Return the result of a function that reads a part of a checkpoint.

    Args:
        path: A local folder or a Hub id.
        part: Name of the part in an error message.
        read: Function that reads it.

    Raises:
        UserError: It cannot be read.
    """
    try:
        with late_progress_bars():
            return read()
    except SafetensorError as error:  # an interrupted download, or a pointer that git-lfs left
        raise UserError(
            f"the {part} of {path!r} is not a complete .safetensors file ({error}); download it again"
        ) from error
    except OSError as error:
        raise UserError(_absent(path, part, first_line(error))) from error
    except UserError:
        raise
    except Exception as error:
        # Damaged files raise all kinds of errors, of Rust too; an error while a model is built comes from its code.
        if part == "model" and not isinstance(error, ImportError | ValueError):
            raise
        if needs_code(error):
            raise UserError(f"the {part} of {path!r} {NEEDS_CODE}") from error
        if package := missing_package(error):
            raise UserError(
                f"the {part} of {path!r} needs {package}: `pip install {package}`, in the version that fits"
                f" torch {torch.__version__}."
            ) from error
        raise UserError(
            f"transformers {transformers.__version__} cannot read the {part} of {path!r}: {first_line(error)}"
        ) from error


def needs_code(error: Exception) -> bool:
    """Return whether transformers raised an error because a checkpoint needs Python code of its own."""
    return "custom code" in str(error)


def missing_package(error: Exception) -> str | None:
    """Return the package that transformers says is missing; None = it is another error.

    Args:
        error: What transformers raised.
    """
    found = re.search(r"(?:requires the|Missing optional dependencies:) (\w+)", str(error))
    return found[1].lower() if found else None


@contextmanager
def late_progress_bars() -> Iterator[None]:
    """Show transformers' progress bars, which go to stderr, only for work that takes longer than BAR_SECONDS."""
    hook = set_tqdm_hook(lambda new_bar, args, options: new_bar(*args, **{"delay": BAR_SECONDS, **options}))
    try:
        yield
    finally:
        set_tqdm_hook(hook)


@contextmanager
def surplus_unreported() -> Iterator[None]:
    """Silence transformers' report on weights that do not belong to the model; other reports still appear."""
    logger = logging.getLogger("transformers.modeling_utils")

    def reports_more(record: logging.LogRecord) -> bool:
        report = record.getMessage()
        return "UNEXPECTED" not in report or any(word in report for word in ("MISSING", "MISMATCH", "CONVERSION"))

    logger.addFilter(reports_more)
    try:
        yield
    finally:
        logger.removeFilter(reports_more)


def _absent(path: str, part: str, reason: str) -> str:
    if Path(path).is_dir():
        return f"the folder {path!r} has no usable {part}: {reason}"
    return (
        f"the VLM {path!r} is neither a folder on this machine nor a model that could be fetched from the"
        f" Hugging Face Hub.{did_you_mean(path, shipped())} ({reason}) Check the spelling and the network."
        f" Without a network: use {' or '.join(map(repr, shipped()))}, which ship with pr2l, or a local folder, made"
        " elsewhere with `hf download MODEL --local-dir FOLDER`, as vlm=FOLDER."
    )


def find_device(name: str) -> str:
    """Return the name of a torch device, for "auto" the GPU if there is one.

    Raises:
        UserError: torch cannot use the device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device={name!r}: torch finds no GPU; use device=auto or device=cpu.")
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        reason = first_line(error)
        raise UserError(f"device={name!r} cannot be used ({reason}); use auto, cpu or cuda.") from error
    return name


def _dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the type of the loaded weights; auto on a GPU is bfloat16 if supported, else float16."""
    if name == "int8" and device.type != "cpu":
        raise UserError(
            f"dtype=int8 works on CPUs only, but the device is {device.type}; use dtype=auto or device=cpu."
        )
    if device.type == "cpu" and name in ("auto", "int8", "fastest"):
        return torch.bfloat16 if name == "fastest" and cpu_has_bfloat16() else torch.float32
    if name in ("auto", "fastest"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def cpu_has_bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16 matrices in hardware.

    A CPU that emulates it takes 2.5 times as long as with float32.
    """
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)
