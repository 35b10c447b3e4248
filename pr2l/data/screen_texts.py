"""Words of generated screens, in two lists without a common word, and states of the phone whose texts use them.

A VLM that only ever meets a few hundred words learns their shapes instead of their letters. So the texts of a generated
state are replaced by random words: real ones, pronounceable ones, and strings of letters and digits.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from random import Random
from typing import Any, Literal, TypeAlias

from pr2l.environments.phone import words
from pr2l.environments.phone.state import Document

Split: TypeAlias = Literal["train", "evaluation"]

EVALUATION_SHARE = 0.25  # of all words, in the evaluation's list
CONSONANTS = (*"bcdfghjklmnprstvwyz", "br", "ch", "cl", "dr", "fl", "gr", "pl", "sh", "st", "th", "tr")
VOWELS = (*"aeiou", "ai", "ea", "ee", "oo", "ou")
ENDS = ("", "", "n", "r", "s", "t", "l", "ck", "ng", "st", "ll", "ss")
PUNCTUATION = (".", ",", "!", "?", ":", ";")
LONG_MESSAGES = 0.4  # share of messages that are long: other screens have few words, and most belong to the apps
LONG = (8, 30)  # words of a long message

# Texts of a state that are replaced, by table. Other texts, such as categories, are part of the apps.
TEXTS = {
    "contacts": ("first_name", "last_name"),
    "messages": ("text",),
    "alarms": ("label",),
    "events": ("title", "location", "description"),
    "notes": ("title", "body"),
    "expenses": ("name", "note"),
    "files": ("name",),
    "tasks": ("title",),
    "notifications": ("title", "text"),
}


def side_of(word: str) -> Split:
    """Return the list that a word belongs to, whatever its case.

    Args:
        word: A word without spaces. Punctuation at its ends does not count.
    """
    digest = blake2b(bare(word).encode(), digest_size=4).digest()
    return "evaluation" if int.from_bytes(digest, "big") < EVALUATION_SHARE * 2**32 else "train"


def bare(word: str) -> str:
    """Return a word in lower case, without punctuation at its ends."""
    return word.strip(string.punctuation).lower()


def draw_word(rng: Random, split: Split) -> str:
    """Draw a word of one list, in lower case unless it is a string of letters and digits.

    Args:
        rng: Random generator.
        split: The list.
    """
    while True:
        kind = rng.random()
        if kind < 0.4:
            word = rng.choice(real_words())
        elif kind < 0.75:
            word = pronounceable(rng)
        elif kind < 0.9:
            word = "".join(rng.choices(string.ascii_letters + string.digits, k=rng.randint(2, 8)))
        else:
            word = str(rng.randrange(10 ** rng.randint(1, 6)))
        if side_of(word) == split:
            return word


def draw_text(rng: Random, split: Split) -> str:
    """Draw a word of one list with random capitals and, sometimes, a punctuation mark.

    Args:
        rng: Random generator.
        split: The list.
    """
    word, kind = draw_word(rng, split), rng.random()
    if kind < 0.3:
        word = word[0].upper() + word[1:]
    elif kind < 0.35:
        word = word.upper()
    return _punctuated(word, rng)


def pronounceable(rng: Random) -> str:
    """Return a random word of one to three syllables."""
    syllables = (rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(1, 3)))
    return "".join(syllables) + rng.choice(ENDS)


@cache
def real_words() -> tuple[str, ...]:
    """Return the words of the phone's own lists, in lower case, sorted."""
    return tuple(sorted({word.lower() for text in _texts(vars(words)) for word in re.findall(r"[A-Za-z]{2,}", text)}))


def _texts(value: Any) -> list[str]:
    """Return all texts in the public constants of a module, at any depth."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, part in value.items() if not str(key).startswith("_") for text in _texts(part)]
    return [text for part in value for text in _texts(part)] if isinstance(value, tuple) else []


def reword(state: Document, rng: Random, split: Split) -> None:
    """Replace the texts of a state by words of one list.

    Each text keeps its number of words and its capitals, except that some messages become long.

    Args:
        state: The state, which is changed.
        rng: Random generator.
        split: The list.
    """
    for table, fields in TEXTS.items():
        for row in state[table]:
            for field in fields:
                row[field] = _file_name(row[field], rng, split) if table == "files" else _text(row[field], rng, split)
    for contact in state["contacts"]:
        if contact["email"]:
            contact["email"] = f"{contact['first_name'].lower()}@mail.web"
    for message in state["messages"]:
        if rng.random() < LONG_MESSAGES:
            message["text"] = " ".join(_like("word", rng, split) for _ in range(rng.randint(*LONG)))
    state["settings"]["device_name"] = _text(state["settings"]["device_name"], rng, split)


def _file_name(name: str, rng: Random, split: Split) -> str:
    return f"{draw_word(rng, split)}.{name.rpartition('.')[2]}"


def _text(text: str, rng: Random, split: Split) -> str:
    return " ".join(_like(word, rng, split) for word in text.split(" ")) if text else text


def _like(word: str, rng: Random, split: Split) -> str:
    """Return a random word with the capital of another word; some words get a punctuation mark."""
    drawn = draw_word(rng, split)
    return _punctuated(drawn[0].upper() + drawn[1:] if word[:1].isupper() else drawn, rng)


def _punctuated(word: str, rng: Random) -> str:
    return word + (rng.choice(PUNCTUATION) if rng.random() < 0.06 else "")


def choices(options: Sequence[Any], split: Split, evaluation: Sequence[Any]) -> list[Any]:
    """Return the options of one side of a split.

    Args:
        options: All options.
        split: The side.
        evaluation: The options of the evaluation's side.
    """
    return [option for option in options if (option in evaluation) == (split == "evaluation")]
