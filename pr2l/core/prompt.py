"""Prompts: YAML files with named slots, which an episode's context fills.

text: "where is the {target} ?"
slots: [target]
why: the VLM must look for the target, so its states say where it is
source: written for this project
vlm_options: {new_tokens: 3}      # advice: how it is best read, where the VLM's own defaults do not suit it
segments: [prompt, generated]     # advice: whose states say most
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Formatter
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pr2l.core import registry
from pr2l.core.errors import UserError, did_you_mean, explain
from pr2l.core.types import Segment
from pr2l.core.yaml_files import read_mapping


class Prompt(BaseModel):
    """One prompt file. An empty text is allowed: the VLM then sees the frame alone.

    `vlm_options` and `segments` are advice, which `pr2l prompts` follows and a config does not: what a config does not
    say itself is not part of its run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str  # <environment>/<task>/<variant>, for messages
    text: str  # what the VLM is asked; {slot} is replaced by the context's value, {{ and }} are braces
    slots: tuple[str, ...] = ()  # the slots of the text, each once, in any order
    why: str  # the reason for this wording
    source: str  # where it comes from: a paper's table, or "written for this project"
    vlm_options: dict[str, Any] = Field(default_factory=dict)  # token order, generation and its length, as in a config
    segments: tuple[Segment, ...] = Field(default=("image", "prompt", "generated"), min_length=1)  # to keep

    def render(self, context: Mapping[str, str]) -> str:
        """The text with its slots filled. A context may hold more than it uses; less is a UserError."""
        for slot in self.slots:
            if slot not in context:
                raise UserError(
                    f"prompt {self.name!r} needs {slot!r}, but the task's context gives "
                    f"{', '.join(map(repr, context)) or 'nothing'}.{did_you_mean(slot, context)} "
                    "Use another prompt, or name the slot as the task does."
                )
        return self.text.format_map(context)


def load(name: str) -> Prompt:
    """The prompt prompts/<name>.yaml, e.g. "doom/fetch/where", or that of a file that ends in .yaml.

    Raises UnknownName if there is no such file, and UserError if its slots and its text disagree.
    """
    path = Path(name)
    if path.suffix != ".yaml" or not path.is_file():
        path = registry.load("prompts", name)
    try:
        prompt = Prompt.model_validate({**read_mapping(path), "name": name})
    except ValidationError as error:
        raise UserError(explain(error, str(path), Prompt)) from error
    used = slots(prompt.text, name)
    if used != set(prompt.slots):
        raise UserError(
            f"prompt {name!r}: the text uses the slots {sorted(used)}, but `slots:` lists "
            f"{sorted(prompt.slots)}; make them agree in {path}"
        )
    return prompt


def check(prompt: Prompt, contexts: Iterable[Mapping[str, str]]) -> list[str]:
    """Every text that the contexts can give, in their order; raises UserError if a slot stays empty."""
    return [prompt.render(context) for context in contexts]


def slots(text: str, name: str) -> set[str]:
    """Names between braces; raises UserError for anything but plain names, such as {} or {target.name}."""
    try:
        fields = [(field, form, conversion) for _, field, form, conversion in Formatter().parse(text)]
    except ValueError as error:
        raise UserError(f"prompt {name!r}: {error} in {text!r}; write {{{{ or }}}} for a brace") from error
    found = {field for field, _, _ in fields if field is not None}
    plain = all(slot.isidentifier() for slot in found) and not any(form or conv for _, form, conv in fields)
    if not plain:
        raise UserError(f"prompt {name!r}: a slot is a plain name such as {{target}}, which {text!r} breaks")
    return found
