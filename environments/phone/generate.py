"""Random states: what is on the phone when an episode starts, and how the phone looks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any

from . import words
from .state import APPS, Document
from .static_data import static_data

PLAIN_LOOK: Document = {
    "dark": False,
    "font": "normal",
    "wallpaper": 0,
    "accent": words.ACCENTS[0],
    "icon_order": list(APPS),
}
MINUTE = timedelta(minutes=1)


def random_state(rng: Random, look: Document | None = None) -> Document:
    """Return a random state: contacts, messages, events and so on, which most tasks do not need.

    Args:
        rng: The random generator.
        look: The look; None = PLAIN_LOOK.
    """
    now = datetime(2023, 10, 1) + timedelta(days=rng.randrange(28), hours=rng.randrange(8, 20), minutes=34)
    contacts = random_contacts(rng, rng.randint(5, 9))
    return {
        "now": time_text(now),
        "look": dict(look or PLAIN_LOOK),
        "settings": random_settings(rng),
        "contacts": contacts,
        "messages": random_messages(rng, contacts, now),
        "alarms": rows("a", [alarm(rng) for _ in range(rng.randint(1, 3))]),
        "timers": rows("i", [{"seconds": 60 * rng.randint(1, 30), "running": False} for _ in range(rng.randint(0, 1))]),
        "stopwatch": {"running": False, "elapsed_s": 0, "laps": 0},
        "world_clocks": rng.sample(words.CITIES, rng.randint(1, 3)),
        "events": random_events(rng, now, rng.randint(5, 9)),
        "notes": random_notes(rng, rng.randint(4, 7)),
        "shops": {"cart": [], "orders": [], "wishlist": random_wishes(rng)},
        "expenses": random_expenses(rng, now, rng.randint(4, 7)),
        "files": random_files(rng),
        "tasks": random_tasks(rng, now, rng.randint(5, 8)),
        "browser": random_browser(rng),
        "notifications": random_notifications(rng),
        "screen": {"app": "launcher", "page": "home"},
    }


def random_look(rng: Random) -> Document:
    """Return a random look: theme, size of text, wallpaper, accent colour and places of the icons.

    Args:
        rng: The random generator.
    """
    return {
        "dark": rng.random() < 0.5,
        "font": rng.choice(("normal", "small", "large")),
        "wallpaper": rng.randrange(6),
        "accent": rng.choice(words.ACCENTS),
        "icon_order": rng.sample(APPS, len(APPS)),
    }


def random_settings(rng: Random) -> Document:
    """Return random settings; networks and sounds are on or off at random."""
    switches = ("bluetooth", "location", "do_not_disturb", "battery_saver", "auto_rotate", "mobile_data", "wifi")
    return {
        **{name: rng.random() < 0.5 for name in switches},
        "airplane_mode": False,
        "brightness": rng.randint(20, 80),
        "ring_volume": rng.randint(10, 90),
        "media_volume": rng.randint(10, 90),
        "alarm_volume": rng.randint(10, 90),
        "screen_timeout": rng.choice(("15 s", "30 s", "1 min", "5 min")),
        "ringtone": rng.choice(words.RINGTONES),
        "device_name": rng.choice(words.DEVICE_NAMES),
    }


def random_contacts(rng: Random, count: int) -> list[Document]:
    """Return contacts whose first names, last names and numbers all differ."""
    names = zip(rng.sample(words.FIRST_NAMES, count), rng.sample(words.LAST_NAMES, count), strict=True)
    numbers = rng.sample(range(10_000), count)
    people = [
        {
            "first_name": first,
            "last_name": last,
            "phone": phone_number(number),
            "email": f"{first.lower()}@mail.web" if rng.random() < 0.5 else "",
            "starred": rng.random() < 0.2,
        }
        for (first, last), number in zip(names, numbers, strict=True)
    ]
    return rows("c", sorted(people, key=lambda person: str(person["first_name"])))


def phone_number(number: int) -> str:
    """Return the phone number of an index in 0..9999, such as "5550042"."""
    return f"555{number:04}"


def random_messages(rng: Random, contacts: Sequence[Document], now: datetime) -> list[Document]:
    """Return threads of one to three messages with some of the contacts, the oldest message first."""
    people = rng.sample(list(contacts), rng.randint(3, min(5, len(contacts))))
    numbers = [person["phone"] for person in people for _ in range(rng.randint(1, 3))]
    texts = rng.sample(words.MESSAGES, len(numbers))
    times = sorted(rng.sample(range(20, 4000), len(numbers)), reverse=True)
    messages = []
    rng.shuffle(numbers)
    for number, text, minutes in zip(numbers, texts, times, strict=True):
        outgoing = rng.random() < 0.4
        sent = time_text(now - minutes * MINUTE)
        messages.append(
            {
                "name_or_number": number,
                "text": text,
                "time": sent,
                "outgoing": outgoing,
                "read": outgoing or rng.random() < 0.6,
            }
        )
    return rows("m", messages)


def alarm(rng: Random) -> Document:
    """Return a random alarm without an id."""
    return {
        "time": f"{rng.randint(5, 11):02}:{rng.choice((0, 15, 30, 45)):02}",
        "label": rng.choice(words.ALARM_LABELS),
        "on": rng.random() < 0.5,
        "days": rng.choice(([], ["Mon", "Tue", "Wed", "Thu", "Fri"], ["Sat", "Sun"])),
    }


def random_events(rng: Random, now: datetime, count: int) -> list[Document]:
    """Return events with different titles on the days around now, in the order of their time."""
    events = [
        event(rng, title, (now + timedelta(days=rng.randint(-2, 12))).date().isoformat())
        for title in rng.sample(words.EVENT_TITLES, count)
    ]
    return rows("e", sorted(events, key=lambda row: (row["date"], row["start"])))


def event(rng: Random, title: str, date: str) -> Document:
    """Return an event of 30, 60 or 90 minutes without an id."""
    start = datetime(2023, 1, 1, rng.randint(8, 19), rng.choice((0, 30)))
    end = start + rng.choice((30, 60, 90)) * MINUTE
    return {
        "title": title,
        "date": date,
        "start": f"{start:%H:%M}",
        "end": f"{end:%H:%M}",
        "location": rng.choice((*words.LOCATIONS, "")),
        "description": rng.choice((*words.DESCRIPTIONS, "")),
    }


def random_notes(rng: Random, count: int) -> list[Document]:
    """Return notes with different titles."""
    return rows("n", [note(rng, title) for title in rng.sample(words.NOTE_TITLES, count)])


def note(rng: Random, title: str) -> Document:
    """Return a random note with a title, without an id."""
    return {
        "title": title,
        "body": rng.choice(words.NOTE_BODIES),
        "pinned": rng.random() < 0.1,
        "folder": rng.choice(words.NOTE_FOLDERS),
    }


def random_expenses(rng: Random, now: datetime, count: int) -> list[Document]:
    """Return expenses with different names in the days before now."""
    names = rng.sample(words.EXPENSE_NAMES, count)
    return rows(
        "x", [expense(rng, name, (now - timedelta(days=rng.randrange(10))).date().isoformat()) for name in names]
    )


def expense(rng: Random, name: str, date: str) -> Document:
    """Return a random expense without an id."""
    return {
        "name": name,
        "amount": 25 * rng.randint(8, 400),
        "category": rng.choice(words.CATEGORIES),
        "date": date,
        "note": "",
    }


def random_files(rng: Random) -> list[Document]:
    """Return two or three files in each folder."""
    pairs = [
        (folder, name) for folder, names in words.FILE_NAMES.items() for name in rng.sample(names, rng.randint(2, 3))
    ]
    sizes = rng.sample(range(10, 9000), len(pairs))
    return rows(
        "f", [{"folder": folder, "name": name, "size_kb": kb} for (folder, name), kb in zip(pairs, sizes, strict=True)]
    )


def random_tasks(rng: Random, now: datetime, count: int) -> list[Document]:
    """Return tasks with different titles, due in the days around now."""
    return rows("t", [task(rng, title, now) for title in rng.sample(words.TASK_TITLES, count)])


def task(rng: Random, title: str, now: datetime) -> Document:
    """Return a random task without an id."""
    return {
        "title": title,
        "due": (now + timedelta(days=rng.randint(-3, 10))).date().isoformat(),
        "priority": rng.choice(("low", "medium", "high")),
        "done": rng.random() < 0.3,
    }


def random_wishes(rng: Random) -> list[str]:
    """Return up to two products of the app Shop."""
    products = [product["id"] for product in static_data("products") if product["store"] == "Shop"]
    return rng.sample(products, rng.randint(0, 2))


def random_browser(rng: Random) -> Document:
    """Return a browser with some visited and bookmarked sites; the last visited one may still be open."""
    sites = [site["url"] for site in static_data("sites")]
    visited, marked = rng.sample(sites, rng.randint(0, 3)), rng.sample(sites, rng.randint(0, 2))
    url = visited[-1] if visited and rng.random() < 0.5 else None
    return {"history": visited, "bookmarks": marked, "url": url, "forms": [], "web_cart": []}


def random_notifications(rng: Random) -> list[Document]:
    """Return up to three notifications."""
    chosen = rng.sample(words.NOTIFICATIONS, rng.randint(0, 3))
    return rows("o", [{"app": app, "title": title, "text": text} for app, title, text in chosen])


def rows(letter: str, values: Sequence[Document]) -> list[Document]:
    """Return rows with the ids letter1, letter2, ... put first."""
    return [{"id": f"{letter}{number}", **value} for number, value in enumerate(values, 1)]


def new_id(table: Sequence[Document], letter: str) -> str:
    """Return the id letterN that no row of a table has, with the smallest N after all present numbers."""
    numbers = [int(row["id"][len(letter) :]) for row in table if row["id"][len(letter) :].isdigit()]
    return f"{letter}{max(numbers, default=0) + 1}"


def time_text(time: datetime) -> str:
    """Return a time as in the state, such as "2023-10-15T15:34"."""
    return time.strftime("%Y-%m-%dT%H:%M")


def add(state: Document, table: str, **values: Any) -> None:
    """Append a row with a new id to a table of a state."""
    state[table].append({"id": new_id(state[table], table[0]), **values})
