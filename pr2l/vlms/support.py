"""Which model types of transformers' image-text-to-text mapping pr2l runs, and why not the others.

`python -m pr2l.vlms.support` writes docs/vlms.md. tests/vlms/test_mapping.py compares this file with what the types do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import transformers
from transformers.models.auto.auto_mappings import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from pr2l.core import registry
from pr2l.vlms.chat import ChatVLM

PAGE = Path(__file__).parents[2] / "docs" / "vlms.md"

# What follows "a <model_type>" in the error message.
REFUSED = {
    "blip": "returns the hidden states of its vision tower, not those of its decoder",
    "diffusion_gemma": "generates whole blocks by diffusion, not one token after the other",
    "evolla": "reads proteins, not images",
    "instructblipvideo": "reads videos only",
    "mistral4": "has no image inputs",
    "pi0": "predicts the actions of a robot, not text",
    "pix2struct": "draws the prompt into the picture, and has no tokens of it",
    "pp_formulanet": "takes no prompt",
    "shieldgemma2": "replaces the prompt by questions about its own policies",
    "udop": "needs the words of the picture and their boxes from an OCR program",
    "vision-encoder-decoder": "takes no prompt",
}
# Types that fail in transformers itself; other versions of it may run them.
FAILS = {"fuyu": "its PIL image processor raises TypeError"}
# Types of which no small checkpoint could be built, so that nothing is known.
UNTESTED = {
    "fast_vlm": "its vision tower needs timm",
    "gemma3n": "its vision tower needs timm",
    "inkling2": "no small checkpoint of ours runs in the unmodified model",
    "inkling_mm_model": "no small checkpoint of ours runs in the unmodified model",
    "perception_lm": "its vision tower needs timm",
}
FREE = "torch in place of torchvision"  # note of a type that needs_torchvision
# Types whose own batches differ from single rows.
ROW_BY_ROW = {"hunyuan_vl": "positions of a batch follow its first row"}


@dataclass(frozen=True)
class Support:
    """Support of one model type.

    Args:
        model_type: As in config.json.
        family: Name of the family of pr2l.
        status: "exact", "row by row", "refused", "fails" or "untested".
        note: Why, or what is special.
        takes: What a prompt may have; "" if the type does not run.
    """

    model_type: str
    family: str
    status: str
    note: str
    takes: str = ""


def all_types() -> list[Support]:
    """Return the support of every model type of the installed transformers."""
    families = {
        model_type: name for name in registry.names("vlms") for model_type in registry.load("vlms", name).MODEL_TYPES
    }
    return [
        _support(name, families.get(name, "generic")) for name in sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    ]


def _support(model_type: str, family: str) -> Support:
    for status, reasons in (("refused", REFUSED), ("fails", FAILS), ("untested", UNTESTED)):
        if model_type in reasons:
            return Support(model_type, family, status, reasons[model_type])
    if model_type in ROW_BY_ROW:
        return Support(model_type, family, "row by row", ROW_BY_ROW[model_type], visuals_of(family))
    generic = family == "generic"
    note = FREE if generic and needs_torchvision(model_type) else ""
    return Support(model_type, family, "exact", note, visuals_of(family))


def visuals_of(family: str) -> str:
    """Return which images and videos a prompt of a family may have.

    Args:
        family: Name of the family.
    """
    vlm = registry.load("vlms", family).load.__self__
    if vlm.takes_videos:
        return "images, videos"
    if family == "generic":
        return "images as its template allows"
    return "images" if issubclass(vlm, ChatVLM) else "one image"


def needs_torchvision(model_type: str) -> bool:
    """Return whether transformers has the image processor, or the processor, of a type for torchvision only.

    Args:
        model_type: As in config.json.
    """
    images = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, {"pil": ""})
    return "pil" not in images or PROCESSOR_MAPPING_NAMES.get(model_type) == "PixtralProcessor"


def page() -> str:
    """Return the text of docs/vlms.md."""
    types = all_types()
    counts = {status: sum(support.status == status for support in types) for status in STATUSES}
    summary = "\n".join(f"| {name} | {counts[name]} | {meaning} |" for name, meaning in STATUSES.items())
    rows = "\n".join(
        f"| `{row.model_type}` | {row.family} | {row.status} | {row.takes} | {row.note} |" for row in types
    )
    return PAGE_TEXT.format(version=transformers.__version__, total=len(types), summary=summary, rows=rows)


STATUSES = {
    "exact": "states and greedy tokens of batches equal those of the unmodified model",
    "row by row": "the same, but rows run one by one, because the model's own batches are not exact",
    "refused": "`load_vlm` raises an error with the reason, because the type does not fit",
    "fails": "transformers' own processor or model raises an error, which `load_vlm` reports",
    "untested": "no small checkpoint of it could be built here",
}
PAGE_TEXT = """# Vision-language models

pr2l loads checkpoints of transformers' image-text-to-text mapping: a type with a family of its own through that family,
each other one through `generic`, which runs most of them and refuses the rest with the reason. This table is for
transformers {version}, which has {total} types, without torchvision. `python -m pr2l.vlms.support` writes this page; a
test keeps it equal to the code.

| status | types | meaning |
|---|---|---|
{summary}

How each type is tested: a small checkpoint is built from the type's own config class with small sizes, random weights,
its own processor and a tokenizer trained in the test. Three frames and prompts, two of equal length, go through pr2l as
one batch and through the unmodified model one by one. Input states, states of the answer and greedy tokens must be
equal (2e-5 of the largest state in float32). `make test-all` runs all types; `make test` runs a sample. After an
upgrade of transformers, new types are tested too. Real checkpoints were not loaded here: the architectures are tested,
the files on the Hub are not. `pr2l vlm check` tests a real one on your machine.

When a checkpoint is loaded by `generic`, the same comparison runs on it, on four rows; a difference refuses it. What a
proof cannot show: that the checkpoint's own files fit (its chat template, the sizes of its image processor).

- **Row by row**: a warning at load says so, with the difference.
- **torch in place of torchvision**: the image processor has no PIL version. pr2l gives it the few functions of
  torchvision that it calls, written in torch (pr2l/vlms/torchvision_free.py). torchvision 0.28 gives the same bits
  (`tests/vlms/test_torchvision_free.py`, where torchvision is installed; our locked environment has none). Where
  torchvision is installed, transformers uses it.
- **Prompts are text**: a special token in a prompt, such as `<|im_end|>` or `<image>`, is read as text and does not
  control the model. `vlm_options.special_tokens=control` gives such tokens their effect.
- **A prompt takes**: with "images" a conversation may have several, with "videos" also frames that are one video
  ([encoders](encoders.md#videos)). Both are tested in the same way for the families of pr2l; `generic` uses the
  checkpoint's chat template, and reports what that refuses.

## Check a checkpoint

```console
pr2l vlm check HuggingFaceTB/SmolVLM-256M-Instruct
pr2l vlm check tiny dtype=bfloat16 --batches none
pr2l vlm submit runs/vlms/MODEL-DTYPE-DEVICE.json
```

`check` loads a name, a Hub id or a folder, with any options of `pr2l options vlm`, and prints two tables:

- **States and answers** of batches: single rows, equal and different lengths, another order, one frame with two
  prompts, 17 rows. Each row is compared with transformers' own model, in the same data type and on the same device,
  which reads the rows one by one and generates with its own `generate`. The table has the largest relative difference
  of a token's state for the embeddings, a middle layer and the last two layers. Allowed are 1e-4 in float32, 1e-2 in
  float16, and 5e-2 in bfloat16 and int8. In float32 all answers must be the same; in the other data types half of them,
  because rounding can change an answer. The limits of half precision were not tried on large models. The command exits
  with code 1 if a limit is exceeded.
- **Input of its processor**: token ids and pixels that the checkpoint's own processor makes of one picture and one
  question, with its chat template, compared with those of pr2l. Other image tokens can be intended: pr2l gives most
  families one picture, where the processor cuts it into tiles.
- **What tokens see**: how much the states of image tokens change with the prompt, and those of the prompt's tokens
  with the image.
- **Tokens, sizes, memory**, and frames a second in batches of 1, 4 and 16. Other programs make the speed too low; the
  result has the share of the processor that they used.

Only one of the two models is in memory at a time. Both get the inputs that pr2l makes.

The result is one JSON file in `runs/vlms`. `submit` validates it and writes it to `docs/results/vlms`, with the
[table of checked checkpoints](results/vlms/README.md), as files for a pull request. A row has no path and no user name:
a local folder appears as its last name and a digest of its files. `submit` refuses rows of another version of pr2l.

## All types

| model_type | family | status | a prompt takes | note |
|---|---|---|---|---|
{rows}
"""

if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
