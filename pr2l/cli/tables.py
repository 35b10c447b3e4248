"""Tables of `pr2l list` and `pr2l options`, from the sources of plug-ins, without an import of torch."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from pr2l.core import config as config_module
from pr2l.core import options as plugin_options
from pr2l.core import registry
from pr2l.core.config import OTHER_SCHEMAS, other_schema
from pr2l.core.errors import UnknownName, UserError
from pr2l.core.source import first_line
from pr2l.core.yaml_files import dump, read_mapping

OPTIONS_OF = {"vlm": "vlms", "encoder": "encoders", "environment": "environments"}
OPTIONS_OF |= {"algorithm": "algorithms", "network": "networks", "evaluator": "evaluators", "api": "apis"}
# Prefix of the options, and a command that takes them, if they are not <kind>_options.KEY of `pr2l train`.
OPTION_COMMANDS = {
    "run": ("", "pr2l train CONFIG"),
    "evaluator": ("", "pr2l evaluator score DATASET EVALUATOR"),
    "api": ("model_options.", "pr2l evaluator score DATASET EVALUATOR api=API"),
}

Rows = list[tuple[str, str]]  # name, description


def name_tables(kind: str) -> Iterator[tuple[str, Table]]:
    """Yield the tables of `pr2l list`, each with its title.

    Args:
        kind: A kind of the registry, or "tasks".

    Raises:
        UnknownName: If there is no such kind.
    """
    if kind not in (*registry.KINDS, "tasks"):
        raise UnknownName("kinds", kind, [*registry.KINDS, "tasks"])
    groups = {"tasks": _tasks, "vlms": _vlms, "configs": _configs}
    for title, rows in groups[kind]() if kind in groups else [(kind, _summaries(kind, registry.names(kind)))]:
        table = Table(show_header=False, box=None, pad_edge=False)
        for name, summary in rows:
            table.add_row(escape(name), escape(summary))
        yield title, table


def option_table(kind: str, name: str | None) -> Table:
    """Return the table of `pr2l options`: name, default, type and meaning of each option.

    Args:
        kind: "run", or a key of OPTIONS_OF, also in its plural.
        name: The name of the plug-in; None for "run" and "vlm".

    Raises:
        UserError: If the kind or the name is unknown, or the name is missing.
    """
    title = escape(" ".join(filter(None, [kind, name])))
    table = Table("option", "default", "type", "meaning", title=title, title_justify="left")
    for row in _options_of(kind, name):
        table.add_row(row.name, escape(_as_yaml(row.default)), escape(row.type), escape(_yaml_words(row.comment)))
    return table


def singular(kind: str) -> str:
    """Return "encoder" for "encoders"."""
    return kind.removesuffix("s")


def _tasks() -> Iterable[tuple[str, Rows]]:
    """Yield a table of all tasks of the environments that can be imported, with their success rules."""
    rows = []
    for environment in registry.names("environments"):
        try:
            tasks = registry.load("environments", environment).TASKS
        except ImportError as error:
            rows.append((environment, f"not available: {error}"))
            continue
        rows += [(f"{environment}/{name}", str(task.success)) for name, task in tasks.items()]
    yield "task", rows


def _vlms() -> Iterable[tuple[str, Rows]]:
    """Yield a table of the checkpoints in pr2l, and a table of the families that read other checkpoints."""
    cards = sorted((Path(__file__).parents[1] / "vlms" / "weights").glob("*/README.md"))
    yield "checkpoint that comes with pr2l", [(card.parent.name, _title(card)) for card in cards]
    families = "family, for a Hugging Face Hub id or a folder with such a checkpoint"
    yield families, _summaries("vlms", registry.names("vlms"))


def _configs() -> Iterable[tuple[str, Rows]]:
    """Yield a table of the configs of each command."""
    names = registry.names("configs")
    runs = [name for name in names if other_schema(name) is None]
    yield "run: `pr2l train NAME`", _summaries("configs", runs)
    for prefix, schema in OTHER_SCHEMAS.items():
        group = [name for name in names if name.startswith(prefix)]
        title = f"{schema.what}: `{schema.command.format(name='NAME')}`"
        yield (
            title,
            [(name.removeprefix(prefix) if schema.short else name, _summary("configs", name)) for name in group],
        )


def _title(card: Path) -> str:
    """Return the first sentence of a model card after its heading."""
    text = card.read_text(encoding="utf-8").partition("\n")[2]
    return re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0]


def _summaries(kind: str, names: Iterable[str]) -> Rows:
    return [(name, _summary(kind, name)) for name in names]


def _summary(kind: str, name: str) -> str:
    """Return a plug-in's description from its file, without importing it."""
    source = registry.source(kind, name)
    if kind in registry.DATA_PACKAGES:
        values = read_mapping(source)
        return str((values.get("text") or values.get("messages", "")) if kind == "prompts" else values.get("why", ""))
    return first_line(source)


def _options_of(kind: str, name: str | None) -> list[plugin_options.Option]:
    """Return the options of a plug-in of a kind such as "encoder" or "encoders"; "run" is RunConfig."""
    if kind == "run":
        rows = plugin_options.options_of_class(Path(config_module.__file__), "RunConfig")
        return rows or []
    kind = singular(kind)
    if kind not in OPTIONS_OF:
        raise UnknownName("kinds with options", kind, ["run", *OPTIONS_OF])
    plural = OPTIONS_OF[kind]
    if name is None and kind != "vlm":
        raise UserError(
            f"which {kind}? Name one, e.g. `pr2l options {kind} {registry.names(plural)[0]}`; "
            f"`pr2l list {plural}` shows all of them"
        )
    rows = plugin_options.read_options(plural, name or "")
    if rows is None:
        raise UserError(
            f"the options of {name!r} cannot be read from its source; see {registry.source(plural, name or '')}"
        )
    return rows


def _as_yaml(default: str | None) -> str:
    """Return a default in the YAML form of configs."""
    if default is None:
        return "(required)"
    try:
        value = ast.literal_eval(default)
    except ValueError:
        return default
    text = dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")


def _yaml_words(comment: str) -> str:
    """Replace Python's None, True, False and () by their YAML forms, as in the defaults."""
    return re.sub(r"\b(None|True|False)\b|\(\)(?= =)", lambda word: _as_yaml(word[0]), comment)
