"""Tasks in the app Calendar."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from random import Random

from .. import words
from ..generate import MINUTE, add, event
from ..state import Document, get
from ..template import Parameters, Template
from ..user import Actions, User


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


def open_day(user: User, day: str) -> Actions:
    """Show the events of a date."""
    yield from user.open("Calendar")
    yield from user.show_month("Calendar/", day)
    yield from user.tap(f"Calendar/{int(day[8:])}")


def delete_event(user: User, title: str) -> Actions:
    """Delete an event of the day on the screen."""
    yield from user.tap(f"Calendar/{title}")
    yield from user.tap("Calendar/Delete")
    yield from user.tap("Calendar/dialog/Delete")


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

    def script(self, user: User) -> Actions:
        yield from user.open("Calendar")
        yield from user.tap("Calendar/New event")
        yield from user.type("Calendar/Title", self.params["title"])
        yield from user.pick_date("Calendar", "Date", self.params["date"])
        yield from user.pick_time("Calendar", "Start", self.params["start"])
        yield from user.pick_time("Calendar", "End", self.params["end"])
        yield from user.tap("Calendar/Save")


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

    def script(self, user: User) -> Actions:
        yield from open_day(user, self.params["date"])
        yield from delete_event(user, self.params["title"])


class SimpleCalendarDeleteEvents(Template):
    """Delete all events of a date."""

    text = "Delete all calendar events on {date}"
    apps = ("Calendar",)
    complexity = 2.4

    def prepare(self, state: Document, rng: Random) -> Parameters:
        day = (today(state) + timedelta(days=rng.randint(1, 6))).isoformat()
        state["events"] = [row for row in state["events"] if row["date"] != day]
        return {"date": day, "titles": [some_event(state, rng, date=day)["title"] for _ in range(2)]}

    def solve(self, state: Document) -> None:
        state["events"] = [row for row in state["events"] if row["date"] != self.params["date"]]

    def script(self, user: User) -> Actions:
        yield from open_day(user, self.params["date"])
        for title in self.params["titles"]:
            yield from delete_event(user, title)


class SimpleCalendarDeleteEventsOnRelativeDay(SimpleCalendarDeleteEvents):
    """Delete all events of a day of the next week."""

    text = "Delete all calendar events this coming {weekday}"

    def prepare(self, state: Document, rng: Random) -> Parameters:
        params = super().prepare(state, rng)
        return {**params, "weekday": f"{date.fromisoformat(params['date']):%A}"}


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

    def script(self, user: User) -> Actions:
        yield from open_day(user, self.params["date"])


class SimpleCalendarNextEvent(Template):
    """Answer with the title of the next event."""

    text = "What is my next upcoming event? Answer with its title"
    apps = ("Calendar",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        later = (datetime.fromisoformat(state["now"]) + timedelta(days=rng.randint(1, 3))).date().isoformat()
        some_event(state, rng, date=later, start="07:05", end="07:35")
        upcoming = [row for row in state["events"] if f"{row['date']}T{row['start']}" > state["now"]]
        return dict(min(upcoming, key=lambda row: (row["date"], row["start"])))

    @property
    def answer(self) -> str:
        return str(self.params["title"])

    def script(self, user: User) -> Actions:
        yield from open_day(user, self.params["date"])


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

    def script(self, user: User) -> Actions:
        yield from open_day(user, self.params["date"])
        yield from user.tap(f"Calendar/{self.params['title']}")


class DayQuestion(Template):
    """Question about the second of three events of a date."""

    apps = ("Calendar",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        day = (today(state) + timedelta(days=rng.randint(1, 6))).isoformat()
        state["events"] = [row for row in state["events"] if row["date"] != day]
        some_event(state, rng, date=day, start="09:00", end="10:00")
        hour = rng.randint(11, 18)
        row = some_event(state, rng, date=day, start=f"{hour}:00", end=f"{hour + 1}:00")
        some_event(state, rng, date=day, start=f"{hour + 2}:00", end=f"{hour + 3}:00")
        return {**row, "before": f"{hour - 1}:30", "after": f"{hour + 1}:30"}

    @property
    def answer(self) -> str:
        return str(self.params["title"])

    def script(self, user: User) -> Actions:
        yield from open_day(user, self.params["date"])


class SimpleCalendarEventOnDateAtTime(DayQuestion):
    """Answer with the event at a time."""

    text = "What is on my schedule for {date} at {start}? Answer with the title"


class SimpleCalendarFirstEventAfterStartTime(DayQuestion):
    """Answer with the first event after a time."""

    text = "What is my first event after {before} on {date}? Answer with the title"


class SimpleCalendarEventsInTimeRange(DayQuestion):
    """Answer with the events between two times."""

    text = "What events do I have between {before} and {after} on {date}? Answer with the titles, separated by commas"
