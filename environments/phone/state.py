"""The phone's state: one JSON document, its schema, and access by path.

A path names a value by keys and, in lists of rows, by ids: "settings/wifi", "contacts/c3/phone".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..base import UserError

Document: TypeAlias = dict[str, Any]

APPS = (
    "Settings", "Contacts", "Messages", "Clock", "Calendar", "Notes", "Shop", "Browser", "Expenses", "Files", "Tasks",
)  # fmt: skip
ROW_KEYS = ("id", "product_id")  # the first of them that a row has names it in paths

Date = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
Time = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
DateTime = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT([01]\d|2[0-3]):[0-5]\d$")]
Percent = Annotated[int, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=0)]
Day = Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
ScreenTimeout = Literal["15 s", "30 s", "1 min", "5 min", "10 min"]
Folder = Literal["Download", "Documents", "Pictures", "Music"]
Priority = Literal["low", "medium", "high"]


class Part(BaseModel):
    """Part of the state; other keys than its fields are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Look(Part):
    dark: bool
    font: Literal["normal", "small", "large"]
    wallpaper: Annotated[int, Field(ge=0, le=5)]
    accent: Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")]
    icon_order: list[str]


class Settings(Part):
    wifi: bool
    bluetooth: bool
    airplane_mode: bool
    mobile_data: bool
    location: bool
    do_not_disturb: bool
    battery_saver: bool
    auto_rotate: bool
    brightness: Percent
    ring_volume: Percent
    media_volume: Percent
    alarm_volume: Percent
    screen_timeout: ScreenTimeout
    ringtone: str
    device_name: str


class Contact(Part):
    id: str
    first_name: str
    last_name: str
    phone: str
    email: str
    starred: bool


class Message(Part):
    """One message; the messages of one number are a thread."""

    id: str
    name_or_number: str  # the other side's number
    text: str
    time: DateTime
    outgoing: bool
    read: bool


class Alarm(Part):
    id: str
    time: Time
    label: str
    on: bool
    days: list[Day]  # [] = once


class Timer(Part):
    id: str
    seconds: Count
    running: bool


class Stopwatch(Part):
    running: bool
    elapsed_s: Annotated[float, Field(ge=0)]
    laps: Count


class Event(Part):
    id: str
    title: str
    date: Date
    start: Time
    end: Time
    location: str
    description: str


class Note(Part):
    id: str
    title: str
    body: str
    pinned: bool
    folder: str


class CartRow(Part):
    product_id: str
    quantity: Count


class Order(Part):
    id: str
    items: list[CartRow]
    total: Count  # cents


class Shops(Part):
    cart: list[CartRow]
    orders: list[Order]
    wishlist: list[str]  # product ids


class Expense(Part):
    id: str
    name: str
    amount: Count  # cents
    category: str
    date: Date
    note: str


class File(Part):
    id: str
    folder: Folder
    name: str
    size_kb: Count


class Task(Part):
    id: str
    title: str
    due: Date | None
    priority: Priority
    done: bool


class Form(Part):
    site: str
    values: dict[str, Any]


class WebCartRow(Part):
    site: str
    product: str


class Browser(Part):
    history: list[str]
    bookmarks: list[str]
    url: str | None
    forms: list[Form]
    web_cart: list[WebCartRow]


class Notification(Part):
    id: str
    app: str
    title: str
    text: str


class State(Part):
    """Schema of the whole document. `screen`, what is open now, belongs to the page, so its keys are free."""

    now: DateTime  # the wall clock at the start of the episode
    look: Look
    settings: Settings
    contacts: list[Contact]
    messages: list[Message]
    alarms: list[Alarm]
    timers: list[Timer]
    stopwatch: Stopwatch
    world_clocks: list[str]
    events: list[Event]
    notes: list[Note]
    shops: Shops
    expenses: list[Expense]
    files: list[File]
    tasks: list[Task]
    browser: Browser
    notifications: list[Notification]
    screen: dict[str, Any]

    @model_validator(mode="after")
    def ids_are_unique(self) -> State:
        for name, rows in self:
            ids = [row.id for row in rows if hasattr(row, "id")] if isinstance(rows, list) else []
            twice = sorted({id_ for id_ in ids if ids.count(id_) > 1})
            if twice:
                raise ValueError(f"{name} has more than one row with the id {twice[0]!r}")
        return self


def validate(document: Document) -> None:
    """Check a document against the schema.

    Args:
        document: The state as JSON values.

    Raises:
        UserError: A key is missing or unknown, or a value is invalid; the message lists the paths.
    """
    try:
        State.model_validate(document)
    except ValidationError as error:
        problems = [f"{'/'.join(map(str, item['loc'])) or 'state'}: {item['msg']}" for item in error.errors()]
        raise UserError(f"the state is invalid; {'; '.join(problems)}") from None


def get(document: Document, path: str) -> Any:
    """Return the value at a path.

    Args:
        document: The state.
        path: The path, such as "contacts/c3/phone".

    Raises:
        UserError: There is nothing at the path.
    """
    value: Any = document
    for key in path.split("/"):
        value = _children(value).get(key, _MISSING)
        if value is _MISSING:
            raise UserError(f"the state has nothing at {path!r}: {key!r} is missing")
    return value


def put(document: Document, path: str, value: Any) -> None:
    """Replace the value at a path.

    Args:
        document: The state, which is changed.
        path: The path of a key of a dict, which must exist.
        value: The new value.

    Raises:
        UserError: There is nothing at the path, or it is a row of a list.
    """
    get(document, path)
    parent_path, _, key = path.rpartition("/")
    parent = get(document, parent_path) if parent_path else document
    if not isinstance(parent, dict):
        raise UserError(f"{path!r} is a row of a list; change the row's fields, or the list")
    parent[key] = value


def row_key(row: Any) -> str | None:
    """Return the name of a row in paths, None for a value that is not a row with an id."""
    keys = [key for key in ROW_KEYS if isinstance(row, dict) and key in row]
    return str(row[keys[0]]) if keys else None


_MISSING = object()


def _children(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    rows = value if isinstance(value, list) else []
    return {key: row for row in rows if (key := row_key(row)) is not None}
