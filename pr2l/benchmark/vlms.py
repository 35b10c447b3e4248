"""`pr2l vlm submit`: rows of `pr2l vlm check` as files for a pull request, and the table of all of them.

<folder>/<checkpoint>-<data type>-<device>.json      one row each
<folder>/README.md                                   the table, made of the rows alone

`python -m pr2l.benchmark.vlms` writes docs/results/vlms/README.md again; a test keeps it equal to the rows.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from pr2l import __version__
from pr2l.benchmark.public import check_public
from pr2l.core.config import parse_options
from pr2l.core.disk import in_units
from pr2l.core.errors import UserError
from pr2l.core.io import write_text
from pr2l.profiling.exactness import CASES
from pr2l.profiling.vlm_row import BUSY, Row, read_row, write_row
from pr2l.vlms.options import Defaults
from pr2l.vlms.proof import TOLERANCES

FOLDER = Path(__file__).parents[2] / "docs" / "results" / "vlms"
PAGE = "README.md"
HEAD = (
    "checkpoint",
    "states",
    "its processor",
    "image tokens see",
    "tokens",
    "layers",
    "speed",
    "memory",
    "device",
    "checked with",
)


def submit(paths: Sequence[Path], out: Path = FOLDER) -> list[Path]:
    """Write rows as files for a pull request, and the table of all rows of the folder.

    Args:
        paths: Files of `pr2l vlm check`.
        out: Folder of the rows.

    Returns:
        The files, in the order of `paths`, and the page with the table.

    Raises:
        UserError: A row is damaged, is of another version of pr2l, would hold a path of this machine, or the row of
            another check has the same name. Then nothing is written.
    """
    rows = [checked(path) for path in paths]
    files = [out / f"{row.name}.json" for row in rows]
    if len({*files}) < len(files):
        raise UserError("two of these rows are of the same checkpoint, data type and device; submit one of them")
    for file, row in zip(files, rows, strict=True):
        if file.exists() and read_row(file) != row:
            raise UserError(f"{file} exists and belongs to another check; delete it to replace it")
    for file, row in zip(files, rows, strict=True):
        write_row(file, row)
    write_text(out / PAGE, page(read_rows(out)))
    return [*files, out / PAGE]


def checked(path: Path) -> Row:
    """Read a row, and check that it can be published.

    Args:
        path: File of `pr2l vlm check`.

    Raises:
        UserError: It cannot, see `submit`.
    """
    row = read_row(path)
    if row.pr2l != __version__:
        raise UserError(
            f"{path} is of pr2l {row.pr2l}, and this is pr2l {__version__}; run `pr2l vlm check {row.model}` again"
        )
    for name, case in row.cases.items():
        if name not in CASES or case.rows != sum(map(len, CASES[name])):
            raise UserError(f"{path}: its case {name!r} is not one of {', '.join(CASES)}; was it edited by hand?")
    parse_options(Defaults, row.options, f"options in {path}")
    check_public(row.model_dump(mode="json"), str(path))
    return row


def read_rows(folder: Path) -> list[Row]:
    """Read all rows of a folder, ordered by their names.

    Args:
        folder: Folder of the rows.

    Raises:
        UserError: A row is not valid, or its file has another name.
    """
    files = sorted(folder.glob("*.json"))
    rows = [read_row(file) for file in files]
    for file, row in zip(files, rows, strict=True):
        if file.stem != row.name:
            raise UserError(f"{file} contains the row {row.name}; rename it to {row.name}.json")
    return rows


def page(rows: Sequence[Row]) -> str:
    """Return the text of the page with the table.

    Args:
        rows: The rows in their order.
    """
    lines = [" | ".join(cells(row)) for row in rows]
    rules = " | ".join("---" for _ in HEAD)
    table = "\n".join(f"| {line} |" for line in (" | ".join(HEAD), rules, *lines))
    limits = ", ".join(f"{limit:.0e} in {dtype}" for dtype, limit in TOLERANCES.items())
    return PAGE_TEXT.format(table=table if rows else "No checkpoint has been submitted yet.", limits=limits)


def cells(row: Row) -> list[str]:
    """Return the cells of a row of the table, in the order of HEAD.

    Args:
        row: The row.
    """
    size, memory = row.size, row.memory
    changes = " with changes" if row.uncommitted else ""
    commit = f" ({row.commit[:10]}{changes})" if row.commit else ""
    by_row = ", row by row" if row.row_by_row else ""
    answers = f", {row.same_answers:.0%} of the answers the same" if size.new_tokens else ""
    options = "".join(f", {key}={value}" for key, value in row.options.items())
    texts = [
        f"{row.family}, {row.dtype}{options}, {row.revision[:15]}",
        f"{row.verdict}{by_row}: {row.difference:.1e}{answers}",
        row.input,
        row.image_sees,
        f"{size.image_tokens} of an image, {size.prompt_tokens} of a prompt, {size.new_tokens} generated",
        f"{size.layers} of width {size.hidden_size}, {size.parameters / 1e6:,.1f} million parameters",
        speed_of(row),
        f"{in_units(memory.weights)} + {in_units(memory.peak)} for a batch of {memory.batch}",
        row.device,
        f"pr2l {row.pr2l}{commit}, transformers {row.transformers}, torch {row.torch}, {row.date}",
    ]
    first, *others = map(cell, texts)
    return [f"[{cell(row.model)}]({row.name}.json): {first}", *others]


def speed_of(row: Row) -> str:
    """Return the cell with the frames per second of each batch size.

    Args:
        row: The row.
    """
    if not row.speed:
        return "not measured"
    rates = ", ".join(f"{speed.frames_per_second:,.1f} frames/s in batches of {speed.batch}" for speed in row.speed)
    busy = f"; other programs used {row.busy:.0%} of the cores" if row.busy > BUSY else ""
    return f"{rates}; threads: {row.threads}{busy}"


def cell(text: str) -> str:
    """Return a text without characters that would end a cell or a link of Markdown, or begin HTML.

    Args:
        text: Any text.
    """
    return html.escape(" ".join(text.split()), quote=False).translate(str.maketrans("|`[]", "/'()"))


PAGE_TEXT = """# Checked checkpoints

Each row is a checkpoint that somebody checked with `pr2l vlm check` on the machine in the row, and submitted with
`pr2l vlm submit`, which writes this page from the files beside it. [Vision-language
models](../../vlms.md#check-a-checkpoint) explains both commands.

- **States**: the largest relative difference of a token's state from the unmodified model of transformers, over all
  batches and layers of the check. Allowed are
  {limits}.
  In float32 all answers must be the same; in other data types half of them, because rounding can change an answer.
- **Its processor**: the input that the checkpoint's own processor makes of the same picture and question, compared
  with that of pr2l. Other image tokens can be intended: pr2l gives most families one picture, without tiles.
- **Speed**: median frames a second of `VLM.hidden` with all generated tokens.
- **Memory**: the weights, and what a batch needs beside them.

{table}
"""

if __name__ == "__main__":
    write_text(FOLDER / PAGE, page(read_rows(FOLDER)))
