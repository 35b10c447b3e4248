"""Tasks in the app Notes, after AndroidWorld's tasks in Markor."""

from __future__ import annotations

from random import Random

from .. import words
from ..generate import add, note
from ..state import Document, get
from ..template import Parameters, Template
from ..user import Actions, User


def new_title(state: Document, rng: Random) -> str:
    """Return a title that no note has."""
    known = {row["title"] for row in state["notes"]}
    return rng.choice([title for title in words.NOTE_TITLES if title not in known])


def some_note(state: Document, rng: Random, **values: object) -> Document:
    """Add a note with a new title, with some of its fields as given, and return it."""
    add(state, "notes", **{**note(rng, new_title(state, rng)), "pinned": False, **values})
    added: Document = state["notes"][-1]
    return added


def open_note(user: User, title: str) -> Actions:
    """Open a note."""
    yield from user.open("Notes")
    yield from user.tap(f"Notes/{title}")


class MarkorCreateNote(Template):
    """Create a note."""

    text = "Create a note with the title {title} and the text: {body}"
    apps = ("Notes",)
    complexity = 1.6

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return {"title": new_title(state, rng), "body": rng.choice(words.NOTE_BODIES)}

    def solve(self, state: Document) -> None:
        fields = {"title": self.params["title"], "body": self.params["body"]}
        add(state, "notes", **fields, pinned=False, folder="Personal")

    def script(self, user: User) -> Actions:
        yield from user.open("Notes")
        yield from user.tap("Notes/New note")
        yield from user.type("Notes/Title", self.params["title"])
        yield from user.type("Notes/Note", self.params["body"])
        yield from user.tap("Notes/Save")


class MarkorDeleteNote(Template):
    """Delete a note."""

    text = "Delete the note {title}"
    apps = ("Notes",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return dict(some_note(state, rng))

    def solve(self, state: Document) -> None:
        state["notes"].remove(get(state, f"notes/{self.params['id']}"))

    def script(self, user: User) -> Actions:
        yield from open_note(user, self.params["title"])
        yield from user.tap("Notes/Delete")
        yield from user.tap("Notes/dialog/Delete")


class MarkorDeleteAllNotes(Template):
    """Delete all notes of a folder."""

    text = "Delete all notes in the folder {folder}"
    apps = ("Notes",)
    complexity = 3.0

    def prepare(self, state: Document, rng: Random) -> Parameters:
        folder = rng.choice(words.NOTE_FOLDERS)
        state["notes"] = [row for row in state["notes"] if row["folder"] != folder]
        return {"folder": folder, "titles": [some_note(state, rng, folder=folder)["title"] for _ in range(2)]}

    def solve(self, state: Document) -> None:
        state["notes"] = [row for row in state["notes"] if row["folder"] != self.params["folder"]]

    def script(self, user: User) -> Actions:
        yield from user.open("Notes")
        yield from user.tap(f"Notes/{self.params['folder']}")
        for title in self.params["titles"]:
            yield from user.long_press(f"Notes/{title}")
            yield from user.tap("Notes/dialog/Delete")
            yield from user.tap("Notes/dialog/Delete")


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

    def script(self, user: User) -> Actions:
        yield from open_note(user, self.params["title"])
        yield from user.replace("Notes/Note", self.params["new_body"])
        yield from user.tap("Notes/Save")


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

    def script(self, user: User) -> Actions:
        yield from open_note(user, self.params["title"])
        yield from user.replace("Notes/Title", self.params["new_title"])
        yield from user.tap("Notes/Save")


class MarkorChangeNoteContent(Template):
    """Replace the text of a note and rename it."""

    text = "Change the text of the note {title} to: {new_body} . Then rename it to {new_title}"
    apps = ("Notes",)
    complexity = 2.0

    def prepare(self, state: Document, rng: Random) -> Parameters:
        row = some_note(state, rng)
        new_body = rng.choice([body for body in words.NOTE_BODIES if body != row["body"]])
        return {**row, "new_title": new_title(state, rng), "new_body": new_body}

    def solve(self, state: Document) -> None:
        row = get(state, f"notes/{self.params['id']}")
        row.update(title=self.params["new_title"], body=self.params["new_body"])

    def script(self, user: User) -> Actions:
        yield from open_note(user, self.params["title"])
        yield from user.replace("Notes/Note", self.params["new_body"])
        yield from user.replace("Notes/Title", self.params["new_title"])
        yield from user.tap("Notes/Save")


class MarkorMergeNotes(Template):
    """Write the texts of two notes into a new one."""

    text = "Create a note {title} with the text of the note {first}, and below it the text of the note {second}"
    apps = ("Notes",)
    complexity = 3.0

    def prepare(self, state: Document, rng: Random) -> Parameters:
        one, other = rng.sample(state["notes"], 2)
        names = {"title": new_title(state, rng), "first": one["title"], "second": other["title"]}
        return {**names, "bodies": [one["body"], other["body"]]}

    def solve(self, state: Document) -> None:
        fields = {"title": self.params["title"], "body": "\n".join(self.params["bodies"])}
        add(state, "notes", **fields, pinned=False, folder="Personal")

    def script(self, user: User) -> Actions:
        for title in (self.params["first"], self.params["second"]):
            yield from open_note(user, title)
        yield from user.open("Notes")
        yield from user.tap("Notes/New note")
        yield from user.type("Notes/Title", self.params["title"])
        yield from user.type("Notes/Note", "\n".join(self.params["bodies"]))
        yield from user.tap("Notes/Save")


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

    def script(self, user: User) -> Actions:
        yield from open_note(user, self.params["title"])
        yield from user.choose("Notes", "Folder", self.params["new_folder"])
        yield from user.tap("Notes/Save")


class NotesPinNote(Template):
    """Pin a note."""

    text = "Pin the note {title}"
    apps = ("Notes",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return dict(some_note(state, rng))

    def solve(self, state: Document) -> None:
        get(state, f"notes/{self.params['id']}")["pinned"] = True

    def script(self, user: User) -> Actions:
        yield from open_note(user, self.params["title"])
        yield from user.tap("Notes/Pin")
        yield from user.tap("Notes/Save")


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

    def script(self, user: User) -> Actions:
        yield from open_note(user, self.params["title"])


class NotesMeetingAttendeeCount(Template):
    """Answer with the number of people in a note."""

    text = "How many people attended the meeting in the note {title}?"
    apps = ("Notes",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        people = rng.sample(words.FIRST_NAMES, rng.randint(3, 8))
        row = some_note(state, rng, body=f"Attendees: {', '.join(people)}")
        return {"title": row["title"], "count": len(people)}

    @property
    def answer(self) -> str:
        return str(self.params["count"])

    def script(self, user: User) -> Actions:
        yield from open_note(user, self.params["title"])
