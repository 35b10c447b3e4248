"""Tasks in the app Calendar."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from random import Random

from .. import words
from ..generate import MINUTE, add, event
from ..state import Document, get
from ..template import Parameters, Template


def today(state: Document) -> date:
    """Return the date on the phone."""
    return datetime.fromisoformat(state["now"]).date()


def new_title(state: Document, rng: Random) -> str:
    """Return a title that no event has."""
    known = {row["title"] for row in state["events"]}
    return rng.choice([title for title in words.EVENT_TITLES if title not in known])


def some_event(state: Document, rng: Random, **values: str) -> Document:
    """Add an event with a new title, with some of its fields as given, and return it."""
    day = (today(state) + timedelta(days=rng.randint(0, 6))).isoformat()
    add(state, "events", **{**event(rng, new_title(state, rng), day), **values})
    added: Document = state["events"][-1]
    return added


class AddEventTask(Template):
    """Task to add an event of one hour.

    Attributes:
        days: The number of days from today to the event, the first and the last of a range.
    """

    apps = ("Calendar",)
    complexity = 2.4
    days = (0, 0)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        day = today(state) + timedelta(days=rng.randint(*self.days))
        start = datetime(2023, 1, 1, rng.randint(7, 20), rng.choice((0, 15, 30, 45)))
        times = {"start": f"{start:%H:%M}", "end": f"{start + 60 * MINUTE:%H:%M}"}
        return {"title": new_title(state, rng), "date": day.isoformat(), "weekday": f"{day:%A}", **times}

    def solve(self, state: Document) -> None:
        fields = {name: self.params[name] for name in ("title", "date", "start", "end")}
        add(state, "events", **fields, location="", description="")


class SimpleCalendarAddOneEvent(AddEventTask):
    """Add an event on a date."""

    text = "Create a calendar event on {date} from {start} to {end} with the title {title}"
    days = (0, 20)


class SimpleCalendarAddOneEventTomorrow(AddEventTask):
    """Add an event tomorrow."""

    text = "Create a calendar event tomorrow from {start} to {end} with the title {title}"
    days = (1, 1)


class SimpleCalendarAddOneEventRelativeDay(AddEventTask):
    """Add an event on a day of the next week."""

    text = "Create a calendar event this coming {weekday} from {start} to {end} with the title {title}"
    days = (1, 6)


class SimpleCalendarAddOneEventInTwoWeeks(AddEventTask):
    """Add an event in two weeks."""

    text = "Create a calendar event in two weeks from today from {start} to {end} with the title {title}"
    days = (14, 14)


class SimpleCalendarDeleteOneEvent(Template):
    """Delete an event."""

    text = "Delete the calendar event {title} on {date}"
    apps = ("Calendar",)
    complexity = 1.4

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return dict(some_event(state, rng))

    def solve(self, state: Document) -> None:
        state["events"].remove(get(state, f"events/{self.params['id']}"))


class SimpleCalendarDeleteEvents(Template):
    """Delete all events of a date."""

    text = "Delete all calendar events on {date}"
    apps = ("Calendar",)
    complexity = 2.4

    def prepare(self, state: Document, rng: Random) -> Parameters:
        day = (today(state) + timedelta(days=rng.randint(1, 6))).isoformat()
        state["events"] = [row for row in state["events"] if row["date"] != day]
        for _ in range(2):
            some_event(state, rng, date=day)
        return {"date": day}

    def solve(self, state: Document) -> None:
        state["events"] = [row for row in state["events"] if row["date"] != self.params["date"]]


class SimpleCalendarEventsOnDate(Template):
    """Answer with the titles of the events on a date."""

    text = "What events do I have on {date}? Answer with the titles, separated by commas"
    apps = ("Calendar",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        day = some_event(state, rng)["date"]
        return {"date": day, "titles": [row["title"] for row in state["events"] if row["date"] == day]}

    @property
    def answer(self) -> str:
        return ", ".join(self.params["titles"])


class SimpleCalendarNextEvent(Template):
    """Answer with the title of the next event."""

    text = "What is my next upcoming event? Answer with its title"
    apps = ("Calendar",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        later = (datetime.fromisoformat(state["now"]) + timedelta(days=rng.randint(1, 3))).date().isoformat()
        some_event(state, rng, date=later, start="07:05", end="07:35")
        upcoming = [row for row in state["events"] if f"{row['date']}T{row['start']}" > state["now"]]
        return {"title": min(upcoming, key=lambda row: (row["date"], row["start"]))["title"]}

    @property
    def answer(self) -> str:
        return str(self.params["title"])


class SimpleCalendarLocationOfEvent(Template):
    """Answer with the location of an event."""

    text = "Where is my event {title} on {date}?"
    apps = ("Calendar",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return dict(some_event(state, rng, location=rng.choice(words.LOCATIONS)))

    @property
    def answer(self) -> str:
        return str(self.params["location"])
