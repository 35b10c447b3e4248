"""Tasks in the app Expenses."""

from __future__ import annotations

from random import Random

from .. import words
from ..generate import add, expense
from ..state import Document, get
from ..template import Parameters, Template
from ..user import Actions, User
from .notes import open_note, some_note


def new_name(state: Document, rng: Random) -> str:
    """Return a name that no expense has."""
    known = {row["name"] for row in state["expenses"]}
    return rng.choice([name for name in words.EXPENSE_NAMES if name not in known])


def some_expense(state: Document, rng: Random, **values: object) -> Document:
    """Add an expense of today with a new name, with some of its fields as given, and return it."""
    add(state, "expenses", **{**expense(rng, new_name(state, rng), state["now"][:10]), **values})
    added: Document = state["expenses"][-1]
    return added


def dollars(cents: int) -> str:
    """Return an amount without the dollar sign, such as "12.50"."""
    return f"{cents / 100:.2f}"


def add_expense(user: User, row: Document) -> Actions:
    """Add an expense in the app Expenses, which is open."""
    yield from user.tap("Expenses/New expense")
    yield from user.type("Expenses/Name", row["name"])
    yield from user.type("Expenses/Amount", dollars(row["amount"]))
    yield from user.choose("Expenses", "Category", row["category"])
    yield from user.tap("Expenses/Save")


def delete_expense(user: User, name: str) -> Actions:
    """Delete an expense in the app Expenses, which is open."""
    yield from user.tap(f"Expenses/{name}")
    yield from user.tap("Expenses/Delete")
    yield from user.tap("Expenses/dialog/Delete")


class ExpenseAddSingle(Template):
    """Add an expense."""

    text = "Add the expense {name} of {dollars} dollars in the category {category}"
    apps = ("Expenses",)
    complexity = 2.0

    def prepare(self, state: Document, rng: Random) -> Parameters:
        row = expense(rng, new_name(state, rng), state["now"][:10])
        return {**row, "dollars": dollars(row["amount"])}

    def solve(self, state: Document) -> None:
        add(state, "expenses", **{name: value for name, value in self.params.items() if name != "dollars"})

    def script(self, user: User) -> Actions:
        yield from user.open("Expenses")
        yield from add_expense(user, self.params)


class ExpenseAddMultiple(Template):
    """Add two expenses."""

    text = (
        "Add the expenses {first} of {first_dollars} dollars and {second} of {second_dollars} dollars, both in the "
        "category {category}"
    )
    apps = ("Expenses",)
    complexity = 4.0

    def prepare(self, state: Document, rng: Random) -> Parameters:
        known = {row["name"] for row in state["expenses"]}
        names = rng.sample([name for name in words.EXPENSE_NAMES if name not in known], 2)
        category = rng.choice(words.CATEGORIES)
        new = [{**expense(rng, name, state["now"][:10]), "category": category} for name in names]
        amounts = {"first_dollars": dollars(new[0]["amount"]), "second_dollars": dollars(new[1]["amount"])}
        return {"first": names[0], "second": names[1], **amounts, "category": category, "rows": new}

    def solve(self, state: Document) -> None:
        for row in self.params["rows"]:
            add(state, "expenses", **row)

    def script(self, user: User) -> Actions:
        yield from user.open("Expenses")
        for row in self.params["rows"]:
            yield from add_expense(user, row)


class ExpenseDeleteSingle(Template):
    """Delete an expense."""

    text = "Delete the expense {name}"
    apps = ("Expenses",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return dict(some_expense(state, rng))

    def solve(self, state: Document) -> None:
        state["expenses"].remove(get(state, f"expenses/{self.params['id']}"))

    def script(self, user: User) -> Actions:
        yield from user.open("Expenses")
        yield from delete_expense(user, self.params["name"])


class ExpenseDeleteMultiple(Template):
    """Delete two expenses."""

    text = "Delete the expenses {first} and {second}"
    apps = ("Expenses",)
    complexity = 2.0

    def prepare(self, state: Document, rng: Random) -> Parameters:
        first, second = some_expense(state, rng), some_expense(state, rng)
        return {"first": first["name"], "second": second["name"], "ids": [first["id"], second["id"]]}

    def solve(self, state: Document) -> None:
        state["expenses"] = [row for row in state["expenses"] if row["id"] not in self.params["ids"]]

    def script(self, user: User) -> Actions:
        yield from user.open("Expenses")
        for name in (self.params["first"], self.params["second"]):
            yield from delete_expense(user, name)


class ExpenseDeleteDuplicates(Template):
    """Delete all but one of equal expenses."""

    text = "Delete all but one of any expenses that are exact duplicates"
    apps = ("Expenses",)
    complexity = 1.6

    def prepare(self, state: Document, rng: Random) -> Parameters:
        row = dict(rng.choice(state["expenses"]))
        del row["id"]
        add(state, "expenses", **row)
        return {"id": state["expenses"][-1]["id"], "name": row["name"]}

    def solve(self, state: Document) -> None:
        state["expenses"].remove(get(state, f"expenses/{self.params['id']}"))

    def script(self, user: User) -> Actions:
        yield from user.open("Expenses")
        yield from delete_expense(user, self.params["name"])


class ExpenseAmountOf(Template):
    """Answer with the amount of an expense."""

    text = "How many dollars did I spend on the expense {name}?"
    apps = ("Expenses",)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return dict(some_expense(state, rng))

    @property
    def answer(self) -> str:
        return dollars(self.params["amount"])

    def script(self, user: User) -> Actions:
        yield from user.open("Expenses")
        yield from user.scroll_to(f"Expenses/{self.params['name']}")


class ExpenseAddFromNote(Template):
    """Add the expense that a note names."""

    text = "Add the expense that the note {title} names"
    apps = ("Notes", "Expenses")
    complexity = 2.4

    def prepare(self, state: Document, rng: Random) -> Parameters:
        row = expense(rng, new_name(state, rng), state["now"][:10])
        body = f"{row['name']}, {dollars(row['amount'])} dollars, category {row['category']}"
        return {"title": some_note(state, rng, body=body)["title"], "row": row}

    def solve(self, state: Document) -> None:
        add(state, "expenses", **self.params["row"])

    def script(self, user: User) -> Actions:
        yield from open_note(user, self.params["title"])
        yield from user.open("Expenses")
        yield from add_expense(user, self.params["row"])
