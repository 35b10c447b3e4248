"""General tasks as in Android-in-the-Wild: open something, look something up, show something."""

from __future__ import annotations

from datetime import timedelta
from random import Random

from ..state import APPS, Document, get
from ..static_data import static_data
from ..template import Parameters, Template
from ..user import Actions, User
from .browser import open_site, page_of, show
from .calendar import open_day, some_event, today
from .contacts import open_contact, some_contact
from .messages import name_of, open_thread

QUESTIONS = (
    "How do I make bread", "How do I clean glass", "How do I fix a bicycle", "How do I grow tomatoes",
    "How do I brew green tea", "How do I play the piano", "How do I make chocolate", "How do I plant an oak",
    "How do I use a compass", "How do I see Saturn", "How do I build a bridge", "How do I keep bees",
)  # fmt: skip
SETTINGS_PAGES = {
    "Network & internet": "network",
    "Connected devices": "devices",
    "Display": "display",
    "Sound & vibration": "sound",
    "Battery": "battery",
    "Location": "location",
    "About phone": "about",
}


def open_article(user: User, title: str) -> Actions:
    """Open an article of the encyclopedia."""
    yield from open_site(user, "openpedia.web")
    yield from user.enter("Browser/Site search", title)
    yield from user.tap(f"Browser/{title}")


class GeneralTask(Template):
    """Task that is done when the right screen is open."""

    family = "general"

    def opened(self, state: Document, app: str, page: str) -> bool:
        """Return whether a page of an app is open."""
        return (state["screen"]["app"], state["screen"]["page"]) == (app, page)

    def open(self, state: Document, app: str, page: str) -> None:
        """Open a page of an app in a state."""
        state["screen"].update(app=app, page=page)


class OpenAppTaskEval(GeneralTask):
    """Open an app."""

    text = "Open the app {app}"
    apps = APPS

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return {"app": rng.choice(APPS)}

    def solve(self, state: Document) -> None:
        self.open(state, self.params["app"], "main")

    def reached(self, state: Document) -> bool:
        return bool(state["screen"]["app"] == self.params["app"])

    def script(self, user: User) -> Actions:
        yield from user.open(self.params["app"])


class GeneralHowDoI(GeneralTask):
    """Search the web for a question."""

    text = "{question}?"
    apps = ("Browser",)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return {"question": rng.choice(QUESTIONS)}

    def solve(self, state: Document) -> None:
        show(state, f"lookup.web/search?q={self.params['question']}")

    def reached(self, state: Document) -> bool:
        """Return whether the search engine shows the results of a query with the last word of the question."""
        host, path, query = page_of(state)
        word = self.params["question"].split()[-1].lower()
        return (host, path) == ("lookup.web", "search") and word in query.get("q", "").lower()

    def script(self, user: User) -> Actions:
        yield from open_site(user, self.params["question"])


class GeneralSearch(GeneralTask):
    """Search the web for a word."""

    text = "Search the web for {topic}"
    apps = ("Browser",)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return {"topic": rng.choice([str(article["title"]).lower() for article in static_data("articles")])}

    def solve(self, state: Document) -> None:
        show(state, f"lookup.web/search?q={self.params['topic']}")

    def reached(self, state: Document) -> bool:
        host, path, query = page_of(state)
        return (host, path) == ("lookup.web", "search") and query.get("q", "").lower() == self.params["topic"]

    def script(self, user: User) -> Actions:
        yield from open_site(user, self.params["topic"])


class GeneralWhatIs(GeneralTask):
    """Open an article of the encyclopedia."""

    text = "Look up {topic} on openpedia.web"
    apps = ("Browser",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return {"topic": rng.choice([article["title"] for article in static_data("articles")])}

    def solve(self, state: Document) -> None:
        show(state, f"openpedia.web/wiki/{self.params['topic'].replace(' ', '_')}")

    def reached(self, state: Document) -> bool:
        host, path, _ = page_of(state)
        return (host, path.replace("_", " ").lower()) == ("openpedia.web", f"wiki/{self.params['topic'].lower()}")

    def script(self, user: User) -> Actions:
        yield from open_article(user, self.params["topic"])


class GeneralFactOf(GeneralTask):
    """Answer with a fact from the encyclopedia."""

    text = 'What does openpedia.web say about {topic} under "{fact}"?'
    apps = ("Browser",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        article = rng.choice([article for article in static_data("articles") if article["facts"]])
        fact = rng.choice(sorted(article["facts"]))
        return {"topic": article["title"], "fact": fact, "value": article["facts"][fact]}

    @property
    def answer(self) -> str:
        return str(self.params["value"])

    def script(self, user: User) -> Actions:
        yield from open_article(user, self.params["topic"])


class GeneralReadNews(GeneralTask):
    """Open an article of the news."""

    text = 'Read the news "{title}" on dailypage.web'
    apps = ("Browser",)
    complexity = 1.4

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return dict(rng.choice(static_data("news")))

    def solve(self, state: Document) -> None:
        show(state, f"dailypage.web/news/{self.params['id']}")

    def reached(self, state: Document) -> bool:
        return page_of(state)[:2] == ("dailypage.web", f"news/{self.params['id']}")

    def script(self, user: User) -> Actions:
        yield from open_site(user, "dailypage.web")
        yield from user.tap(f"Browser/{self.params['title']}")


class GeneralShowDay(GeneralTask):
    """Show a day in the calendar."""

    text = "What's on the calendar for {date}?"
    apps = ("Calendar",)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        day = today(state) + timedelta(days=rng.randint(1, 6))
        return {"date": some_event(state, rng, date=day.isoformat())["date"]}

    def solve(self, state: Document) -> None:
        self.open(state, "Calendar", "main")
        state["screen"]["draft"] = {"day": self.params["date"]}

    def reached(self, state: Document) -> bool:
        day = state["screen"].get("draft", {}).get("day")
        return self.opened(state, "Calendar", "main") and bool(day == self.params["date"])

    def script(self, user: User) -> Actions:
        yield from open_day(user, self.params["date"])


class GeneralShowSettings(GeneralTask):
    """Open a page of the settings."""

    text = "Show the settings of {title}"
    apps = ("Settings",)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return {"title": rng.choice(list(SETTINGS_PAGES))}

    def solve(self, state: Document) -> None:
        self.open(state, "Settings", SETTINGS_PAGES[self.params["title"]])

    def reached(self, state: Document) -> bool:
        return self.opened(state, "Settings", SETTINGS_PAGES[self.params["title"]])

    def script(self, user: User) -> Actions:
        yield from user.open("Settings")
        yield from user.tap(f"Settings/{self.params['title']}")


class GeneralShowContact(GeneralTask):
    """Open the page of a contact."""

    text = "Show me the contact {name}"
    apps = ("Contacts",)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return some_contact(state, rng)

    def solve(self, state: Document) -> None:
        self.open(state, "Contacts", f"contact/{self.params['id']}")

    def reached(self, state: Document) -> bool:
        return self.opened(state, "Contacts", f"contact/{self.params['id']}")

    def script(self, user: User) -> Actions:
        yield from open_contact(user, self.params["name"])


class GeneralShowConversation(GeneralTask):
    """Open the messages of a person."""

    text = "Open the conversation with {name}"
    apps = ("Messages",)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        number = rng.choice(state["messages"])["name_or_number"]
        return {"number": number, "name": name_of(state, number)}

    def solve(self, state: Document) -> None:
        self.open(state, "Messages", f"thread/{self.params['number']}")

    def reached(self, state: Document) -> bool:
        return self.opened(state, "Messages", f"thread/{self.params['number']}")

    def script(self, user: User) -> Actions:
        yield from open_thread(user, self.params["name"])


class GeneralDarkTheme(GeneralTask):
    """Turn the dark theme on or off."""

    text = "Turn the dark theme {on_or_off}"
    apps = ("Settings",)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return {"on_or_off": "off" if state["look"]["dark"] else "on"}

    def solve(self, state: Document) -> None:
        get(state, "look")["dark"] = self.params["on_or_off"] == "on"

    def script(self, user: User) -> Actions:
        yield from user.open("Settings")
        yield from user.tap("Settings/Display")
        yield from user.tap("Settings/Dark theme switch")
