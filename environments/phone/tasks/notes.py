"""Tasks in the app Notes, after AndroidWorld's tasks in Markor."""

from __future__ import annotations

from random import Random

from .. import words
from ..generate import add, note
from ..state import Document, get
from ..template import Parameters, Template


def new_title(state: Document, rng: Random) -> str:
    """Return a title that no note has."""
    known = {row["title"] for row in state["notes"]}
    return rng.choice([title for title in words.NOTE_TITLES if title not in known])


def some_note(state: Document, rng: Random, **values: object) -> Document:
    """Add a note with a new title, with some of its fields as given, and return it."""
    add(state, "notes", **{**note(rng, new_title(state, rng)), "pinned": False, **values})
    added: Document = state["notes"][-1]
    return added


class MarkorCreateNote(Template):
    """Create a note."""

    text = "Create a note with the title {title} and the text: {body}"
    apps = ("Notes",)
    complexity = 1.6
    free = ()

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return {"title": new_title(state, rng), "body": rng.choice(words.NOTE_BODIES)}

    def solve(self, state: Document) -> None:
        fields = {"title": self.params["title"], "body": self.params["body"]}
        add(state, "notes", **fields, pinned=False, folder="Personal")


class MarkorDeleteNote(Template):
    """Delete a note."""

    text = "Delete the note {title}"
    apps = ("Notes",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return dict(some_note(state, rng))

    def solve(self, state: Document) -> None:
        state["notes"].remove(get(state, f"notes/{self.params['id']}"))


class MarkorDeleteAllNotes(Template):
    """Delete all notes of a folder."""

    text = "Delete all notes in the folder {folder}"
    apps = ("Notes",)
    complexity = 3.0

    def prepare(self, state: Document, rng: Random) -> Parameters:
        folder = rng.choice(words.NOTE_FOLDERS)
        state["notes"] = [row for row in state["notes"] if row["folder"] != folder]
        for _ in range(2):
            some_note(state, rng, folder=folder)
        return {"folder": folder}

    def solve(self, state: Document) -> None:
        state["notes"] = [row for row in state["notes"] if row["folder"] != self.params["folder"]]


class MarkorEditNote(Template):
    """Replace the text of a note."""

    text = "Change the text of the note {title} to: {new_body}"
    apps = ("Notes",)
    complexity = 1.6

    def prepare(self, state: Document, rng: Random) -> Parameters:
        row = some_note(state, rng)
        return {**row, "new_body": rng.choice([body for body in words.NOTE_BODIES if body != row["body"]])}

    def solve(self, state: Document) -> None:
        get(state, f"notes/{self.params['id']}")["body"] = self.params["new_body"]


class MarkorChangeNoteTitle(Template):
    """Rename a note."""

    text = "Rename the note {title} to {new_title}"
    apps = ("Notes",)
    complexity = 1.6

    def prepare(self, state: Document, rng: Random) -> Parameters:
        row = some_note(state, rng)
        return {**row, "new_title": new_title(state, rng)}

    def solve(self, state: Document) -> None:
        get(state, f"notes/{self.params['id']}")["title"] = self.params["new_title"]


class MarkorMoveNote(Template):
    """Move a note to another folder."""

    text = "Move the note {title} to the folder {new_folder}"
    apps = ("Notes",)
    complexity = 1.6

    def prepare(self, state: Document, rng: Random) -> Parameters:
        row = some_note(state, rng)
        return {**row, "new_folder": rng.choice([name for name in words.NOTE_FOLDERS if name != row["folder"]])}

    def solve(self, state: Document) -> None:
        get(state, f"notes/{self.params['id']}")["folder"] = self.params["new_folder"]


class NotesPinNote(Template):
    """Pin a note."""

    text = "Pin the note {title}"
    apps = ("Notes",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return dict(some_note(state, rng))

    def solve(self, state: Document) -> None:
        get(state, f"notes/{self.params['id']}")["pinned"] = True


class NotesFolderOfNote(Template):
    """Answer with the folder of a note."""

    text = "In which folder is the note {title}?"
    apps = ("Notes",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return dict(some_note(state, rng))

    @property
    def answer(self) -> str:
        return str(self.params["folder"])
