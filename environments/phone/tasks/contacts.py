"""Tasks in the app Contacts."""

from __future__ import annotations

from random import Random

from .. import words
from ..generate import add, phone_number
from ..state import Document, get
from ..template import Parameters, Template
from ..user import Actions, User


def new_person(state: Document, rng: Random) -> Parameters:
    """Return `first`, `last` and `number` of a person who is not among the contacts."""
    firsts = {contact["first_name"] for contact in state["contacts"]}
    lasts = {contact["last_name"] for contact in state["contacts"]}
    return {
        "first": rng.choice([name for name in words.FIRST_NAMES if name not in firsts]),
        "last": rng.choice([name for name in words.LAST_NAMES if name not in lasts]),
        "number": new_number(state, rng),
    }


def new_number(state: Document, rng: Random) -> str:
    """Return a phone number that is not among the contacts."""
    known = {contact["phone"] for contact in state["contacts"]}
    return rng.choice([number for number in map(phone_number, range(10_000)) if number not in known])


def some_contact(state: Document, rng: Random) -> Parameters:
    """Return `id`, `name` and `number` of a random contact."""
    contact = rng.choice(state["contacts"])
    name = f"{contact['first_name']} {contact['last_name']}"
    return {"id": contact["id"], "name": name, "number": contact["phone"]}


def open_contact(user: User, name: str) -> Actions:
    """Open the page of a contact."""
    yield from user.open("Contacts")
    yield from user.tap(f"Contacts/{name}")


def enter_contact(user: User, person: Parameters) -> Actions:
    """Fill in the page of a new contact."""
    yield from user.open("Contacts")
    yield from user.tap("Contacts/New contact")
    for field, key in (("First name", "first"), ("Last name", "last"), ("Phone", "number")):
        yield from user.type(f"Contacts/{field}", person[key])


class ContactsAddContact(Template):
    """Add a contact with a name and a number."""

    text = "Create a new contact for {first} {last} with the number {number}"
    apps = ("Contacts",)
    complexity = 1.6

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return new_person(state, rng)

    def solve(self, state: Document) -> None:
        p = self.params
        name = {"first_name": p["first"], "last_name": p["last"]}
        add(state, "contacts", **name, phone=p["number"], email="", starred=False)

    def script(self, user: User) -> Actions:
        yield from enter_contact(user, self.params)
        yield from user.tap("Contacts/Save")


class ContactsNewContactDraft(Template):
    """Fill in a new contact without saving it."""

    text = "Enter a new contact {first} {last} with the number {number}, but do not save it"
    apps = ("Contacts",)
    complexity = 1.6

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return new_person(state, rng)

    def solve(self, state: Document) -> None:
        state["screen"].update(app="Contacts", page="edit/new", draft=self.draft)

    def reached(self, state: Document) -> bool:
        draft = state["screen"].get("draft", {})
        shown = state["screen"]["page"] == "edit/new"
        return shown and {key: text.strip() for key, text in draft.items() if text.strip()} == self.draft

    @property
    def draft(self) -> Parameters:
        """What the fields contain at the goal."""
        p = self.params
        return {"first_name": p["first"], "last_name": p["last"], "phone": p["number"]}

    def script(self, user: User) -> Actions:
        yield from enter_contact(user, self.params)


class ContactsEditNumber(Template):
    """Change the number of a contact."""

    text = "Change the phone number of {name} to {new_number}"
    apps = ("Contacts",)
    complexity = 1.4

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return {**some_contact(state, rng), "new_number": new_number(state, rng)}

    def solve(self, state: Document) -> None:
        get(state, f"contacts/{self.params['id']}")["phone"] = self.params["new_number"]

    def script(self, user: User) -> Actions:
        yield from open_contact(user, self.params["name"])
        yield from user.tap("Contacts/Edit")
        yield from user.replace("Contacts/Phone", self.params["new_number"])
        yield from user.tap("Contacts/Save")


class ContactsDeleteContact(Template):
    """Delete a contact."""

    text = "Delete the contact {name}"
    apps = ("Contacts",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return some_contact(state, rng)

    def solve(self, state: Document) -> None:
        state["contacts"].remove(get(state, f"contacts/{self.params['id']}"))

    def script(self, user: User) -> Actions:
        yield from open_contact(user, self.params["name"])
        yield from user.tap("Contacts/Delete")
        yield from user.tap("Contacts/dialog/Delete")


class ContactsStarContact(Template):
    """Mark a contact as a favourite."""

    text = "Star the contact {name}"
    apps = ("Contacts",)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        contact = some_contact(state, rng)
        get(state, f"contacts/{contact['id']}")["starred"] = False
        return contact

    def solve(self, state: Document) -> None:
        get(state, f"contacts/{self.params['id']}")["starred"] = True

    def script(self, user: User) -> Actions:
        yield from open_contact(user, self.params["name"])
        yield from user.tap("Contacts/Favourite")


class ContactsNumberOf(Template):
    """Answer with the number of a contact."""

    text = "What is the phone number of {name}?"
    apps = ("Contacts",)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return some_contact(state, rng)

    @property
    def answer(self) -> str:
        return str(self.params["number"])

    def script(self, user: User) -> Actions:
        yield from open_contact(user, self.params["name"])
