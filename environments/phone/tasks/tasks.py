"""Tasks in the app Tasks, a list of things to do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random

from .. import words
from ..generate import add, task
from ..state import Document, get
from ..template import Parameters, Template
from ..user import Actions, User


def new_title(state: Document, rng: Random) -> str:
    """Return a title that no task has."""
    known = {row["title"] for row in state["tasks"]}
    return rng.choice([title for title in words.TASK_TITLES if title not in known])


def some_task(state: Document, rng: Random, **values: object) -> Document:
    """Add a task with a new title, with some of its fields as given, and return it."""
    add(state, "tasks", **{**task(rng, new_title(state, rng), datetime.fromisoformat(state["now"])), **values})
    added: Document = state["tasks"][-1]
    return added


class TasksAddTask(Template):
    """Add a task."""

    text = "Add the task {title} with {priority} priority"
    apps = ("Tasks",)
    complexity = 1.6

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return {"title": new_title(state, rng), "priority": rng.choice(("low", "high"))}

    def solve(self, state: Document) -> None:
        add(state, "tasks", title=self.params["title"], due=None, priority=self.params["priority"], done=False)

    def script(self, user: User) -> Actions:
        yield from user.open("Tasks")
        yield from user.tap("Tasks/New task")
        yield from user.type("Tasks/Title", self.params["title"])
        yield from user.choose("Tasks", "Priority", self.params["priority"])
        yield from user.tap("Tasks/Save")


class TasksCompleteTask(Template):
    """Mark a task as done."""

    text = "Mark the task {title} as done"
    apps = ("Tasks",)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return dict(some_task(state, rng, done=False))

    def solve(self, state: Document) -> None:
        get(state, f"tasks/{self.params['id']}")["done"] = True

    def script(self, user: User) -> Actions:
        yield from user.open("Tasks")
        yield from user.tap(f"Tasks/{self.params['title']} done")


class TasksDeleteTask(Template):
    """Delete a task."""

    text = "Delete the task {title}"
    apps = ("Tasks",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return dict(some_task(state, rng))

    def solve(self, state: Document) -> None:
        state["tasks"].remove(get(state, f"tasks/{self.params['id']}"))

    def script(self, user: User) -> Actions:
        yield from user.open("Tasks")
        yield from user.tap(f"Tasks/{self.params['title']}")
        yield from user.tap("Tasks/Delete")
        yield from user.tap("Tasks/dialog/Delete")


class TitlesTask(Template):
    """Question for the titles of some tasks."""

    apps = ("Tasks",)
    complexity = 1.2

    def titles(self, state: Document, condition: Callable[[Document], bool]) -> list[str]:
        """Return the titles of the tasks that satisfy a condition."""
        return [row["title"] for row in state["tasks"] if condition(row)]

    @property
    def answer(self) -> str:
        return ", ".join(self.params["titles"])

    def script(self, user: User) -> Actions:
        yield from user.open("Tasks")
        for title in self.params["titles"]:
            yield from user.scroll_to(f"Tasks/{title}")


class TasksDueOnDate(TitlesTask):
    """Answer with the tasks due on a date."""

    text = "What tasks are due on {date}? Answer with the titles, separated by commas"

    def prepare(self, state: Document, rng: Random) -> Parameters:
        day = some_task(state, rng)["due"]
        return {"date": day, "titles": self.titles(state, lambda row: row["due"] == day)}


class TasksDueTomorrow(TitlesTask):
    """Answer with the tasks due tomorrow."""

    text = "What tasks are due tomorrow? Answer with the titles, separated by commas"

    def prepare(self, state: Document, rng: Random) -> Parameters:
        day = (datetime.fromisoformat(state["now"]) + timedelta(days=1)).date().isoformat()
        some_task(state, rng, due=day)
        return {"titles": self.titles(state, lambda row: row["due"] == day)}


class TasksHighPriorityTasks(TitlesTask):
    """Answer with the tasks of high priority that are not done."""

    text = "What open tasks have high priority? Answer with the titles, separated by commas"

    def prepare(self, state: Document, rng: Random) -> Parameters:
        some_task(state, rng, priority="high", done=False)
        return {"titles": self.titles(state, lambda row: row["priority"] == "high" and not row["done"])}


class TasksCompletedTasksForDate(TitlesTask):
    """Answer with the finished tasks that were due on a date."""

    text = "What tasks due on {date} are done? Answer with the titles, separated by commas"

    def prepare(self, state: Document, rng: Random) -> Parameters:
        day = some_task(state, rng, done=True)["due"]
        return {"date": day, "titles": self.titles(state, lambda row: row["due"] == day and row["done"])}


class TasksIncompleteTasksOnDate(TitlesTask):
    """Answer with the open tasks that are due on a date."""

    text = "What tasks due on {date} are not done yet? Answer with the titles, separated by commas"

    def prepare(self, state: Document, rng: Random) -> Parameters:
        day = some_task(state, rng, done=False)["due"]
        return {"date": day, "titles": self.titles(state, lambda row: row["due"] == day and not row["done"])}


class TasksHighPriorityTasksDueOnDate(TitlesTask):
    """Answer with the tasks of high priority that are due on a date."""

    text = "What tasks with high priority are due on {date}? Answer with the titles, separated by commas"

    def prepare(self, state: Document, rng: Random) -> Parameters:
        day = some_task(state, rng, priority="high")["due"]
        return {"date": day, "titles": self.titles(state, lambda row: row["due"] == day and row["priority"] == "high")}
