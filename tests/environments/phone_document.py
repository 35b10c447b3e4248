"""A phone with something in every app, as the start of tests of its page."""

from typing import Any

CONTACTS = (("Ada", "Lovelace"), ("Ben", "Okafor"), ("Clara", "Schmidt"), ("Diego", "Ramos"), ("Emma", "Larsen"))
APPS = [
    "Settings",
    "Contacts",
    "Messages",
    "Clock",
    "Calendar",
    "Notes",
    "Shop",
    "Browser",
    "Expenses",
    "Files",
    "Tasks",
]


def message(number: str, text: str, time: str, outgoing: bool = False, read: bool = True) -> dict[str, Any]:
    return {"name_or_number": number, "text": text, "time": time, "outgoing": outgoing, "read": read}


def numbered(prefix: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with the ids prefix1, prefix2, ..."""
    return [{"id": f"{prefix}{number}", **row} for number, row in enumerate(rows, start=1)]


def document() -> dict[str, Any]:
    """Return the state of a phone with rows in every list."""
    return {
        "now": "2023-10-15T15:34",
        "look": {"dark": False, "font": "normal", "wallpaper": 0, "accent": "#6750a4", "icon_order": list(APPS)},
        "settings": {
            "wifi": True,
            "bluetooth": False,
            "airplane_mode": False,
            "mobile_data": True,
            "location": True,
            "do_not_disturb": False,
            "battery_saver": False,
            "auto_rotate": True,
            "brightness": 60,
            "ring_volume": 70,
            "media_volume": 50,
            "alarm_volume": 80,
            "screen_timeout": "1 min",
            "ringtone": "Aurora",
            "device_name": "My phone",
        },
        "contacts": numbered(
            "c",
            [
                {
                    "first_name": first,
                    "last_name": last,
                    "phone": f"555010{place}",
                    "email": f"{first.lower()}@mail.web",
                    "starred": first == "Clara",
                }
                for place, (first, last) in enumerate(CONTACTS)
            ],
        ),
        "messages": numbered(
            "m",
            [
                message("5550100", "See you at six?", "2023-10-15T09:10", read=False),
                message("5550101", "The train is late", "2023-10-14T18:00"),
                message("5550101", "No problem", "2023-10-14T18:05", outgoing=True),
                message("5559999", "Your parcel arrived", "2023-10-13T12:00"),
            ],
        ),
        "alarms": numbered(
            "a",
            [
                {"time": "06:30", "label": "Gym", "on": True, "days": ["Mon", "Wed"]},
                {"time": "08:00", "label": "", "on": False, "days": []},
            ],
        ),
        "timers": numbered("t", [{"seconds": 300, "running": False}]),
        "stopwatch": {"running": True, "elapsed_s": 75, "laps": 2},
        "world_clocks": ["London", "Tokyo"],
        "events": numbered(
            "e",
            [
                {
                    "title": "Dentist",
                    "date": "2023-10-15",
                    "start": "16:00",
                    "end": "17:00",
                    "location": "Room 12",
                    "description": "Bring the card",
                },
                {
                    "title": "Team lunch",
                    "date": "2023-10-17",
                    "start": "12:00",
                    "end": "13:30",
                    "location": "",
                    "description": "",
                },
            ],
        ),
        "notes": numbered(
            "n",
            [
                {"title": "Budget", "body": "Ask about the travel costs", "pinned": False, "folder": "Work"},
                {"title": "Groceries", "body": "Milk\nEggs", "pinned": True, "folder": "Personal"},
            ],
        ),
        "shops": {
            "cart": [{"product_id": "p1", "quantity": 2}],
            "orders": [{"id": "o1", "items": [{"product_id": "p5", "quantity": 1}], "total": 1575}],
            "wishlist": ["p3"],
        },
        "expenses": numbered(
            "x",
            [
                {"name": "Lunch", "amount": 1250, "category": "Food", "date": "2023-10-14", "note": ""},
                {"name": "Bus ticket", "amount": 340, "category": "Travel", "date": "2023-10-12", "note": "Line 7"},
            ],
        ),
        "files": numbered(
            "f",
            [
                {"folder": "Download", "name": "report.pdf", "size_kb": 240},
                {"folder": "Download", "name": "map.png", "size_kb": 1800},
                {"folder": "Music", "name": "waltz.mp3", "size_kb": 4200},
            ],
        ),
        "tasks": numbered(
            "k",
            [
                {"title": "Buy stamps", "due": "2023-10-16", "priority": "high", "done": False},
                {"title": "Call the bank", "due": None, "priority": "low", "done": True},
            ],
        ),
        "browser": {
            "history": ["lookup.web"],
            "bookmarks": ["openpedia.web/wiki/Otter"],
            "url": None,
            "forms": [],
            "web_cart": [],
        },
        "notifications": numbered("w", [{"app": "Calendar", "title": "Dentist at 16:00", "text": "Room 12"}]),
        "screen": {"app": "launcher", "page": "home", "dialog": None, "shade_open": False, "recent_apps": []},
    }
