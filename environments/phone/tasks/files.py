"""Tasks in the app Files."""

from __future__ import annotations

from random import Random

from .. import words
from ..state import Document, get
from ..template import Parameters, Template
from ..user import Actions, User


def some_file(state: Document, rng: Random) -> Parameters:
    """Return the fields of a random file."""
    return dict(rng.choice(state["files"]))


def open_file(user: User, folder: str, name: str) -> Actions:
    """Open the page of a file."""
    yield from user.open("Files")
    yield from user.tap(f"Files/{folder}")
    yield from user.tap(f"Files/{name}")


class FilesDeleteFile(Template):
    """Delete a file."""

    text = "Delete the file {name} from the folder {folder}"
    apps = ("Files",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return some_file(state, rng)

    def solve(self, state: Document) -> None:
        state["files"].remove(get(state, f"files/{self.params['id']}"))

    def script(self, user: User) -> Actions:
        yield from open_file(user, self.params["folder"], self.params["name"])
        yield from user.tap("Files/Delete")
        yield from user.tap("Files/dialog/Delete")


class FilesMoveFile(Template):
    """Move a file to another folder."""

    text = "Move the file {name} from the folder {folder} to the folder {target}"
    apps = ("Files",)
    complexity = 1.6

    def prepare(self, state: Document, rng: Random) -> Parameters:
        row = some_file(state, rng)
        return {**row, "target": rng.choice([folder for folder in words.FILE_NAMES if folder != row["folder"]])}

    def solve(self, state: Document) -> None:
        get(state, f"files/{self.params['id']}")["folder"] = self.params["target"]

    def script(self, user: User) -> Actions:
        yield from open_file(user, self.params["folder"], self.params["name"])
        yield from user.choose("Files", "Move", self.params["target"])


class FilesRenameFile(Template):
    """Rename a file."""

    text = "Rename the file {name} in the folder {folder} to {new_name}"
    apps = ("Files",)
    complexity = 1.6

    def prepare(self, state: Document, rng: Random) -> Parameters:
        row = some_file(state, rng)
        stem = rng.choice(("old", "final", "copy", "draft"))
        return {**row, "new_name": f"{stem}.{row['name'].rpartition('.')[2]}"}

    def solve(self, state: Document) -> None:
        get(state, f"files/{self.params['id']}")["name"] = self.params["new_name"]

    def script(self, user: User) -> Actions:
        yield from open_file(user, self.params["folder"], self.params["name"])
        yield from user.tap("Files/Rename")
        yield from user.replace("Files/Name", self.params["new_name"])
        yield from user.tap("Files/dialog/Save")


class FilesNumberInFolder(Template):
    """Answer with the number of files in a folder."""

    text = "How many files are in the folder {folder}?"
    apps = ("Files",)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        folder = rng.choice(list(words.FILE_NAMES))
        return {"folder": folder, "count": sum(row["folder"] == folder for row in state["files"])}

    @property
    def answer(self) -> str:
        return str(self.params["count"])

    def script(self, user: User) -> Actions:
        yield from user.open("Files")
        yield from user.tap(f"Files/{self.params['folder']}")
