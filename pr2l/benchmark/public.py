"""Check of a row before it is published: it must not hold paths, addresses or names of one machine.

Such a value is of no use to others, and a path such as /home/NAME/... gives the name of a user away. A value counts as
local if it exists as a path on this machine, or looks like a path of any machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from pr2l.core.errors import UserError

LOCAL = re.compile(
    r"""
    (?:^|=)["']?/[^/\s]                    # an absolute path as a value: /data, vlm=/data
    | (?<![\w.~$}/-])/[\w.~-]+/            # or with a folder, inside a text
    | (?:^|[=\s"'(\[{,:])~[\w.-]*[/\\] | ^~[\w.-]*$       # ~/models, ~ada/models, ~
    | (?:^|[=\s"'(\[{,:/\\])\.\.(?:[/\\]|$)             # ../models
    | (?<!\w)file:/ | (?<!\w)[a-z]:[\\/] | (?<![\w\\])\\\\\w
    | ://[^/\s]*@ | ://\S*:\S*@           # an address with a user name or a password
    | :// [^\s?]* \? \S* (?:key|token|secret|password|auth)\w* =   # or with a key
    """,
    re.VERBOSE | re.IGNORECASE,
)
BETWEEN = re.compile(r"""[\s="'(),;\[\]{}<>]+""")  # paths in a text
MODELS = ("vlm", "weights")  # keys whose value is a Hub id, unless a folder has the same name
OWN_SERVER = ("localhost", "127.0.0.1", "::1")
INSTEAD = {
    "vlm": "a Hugging Face Hub id, or a name from `pr2l list vlms`",
    "weights": "a Hugging Face Hub id",
    "prompt": "the name of a prompt: commit the file as prompts/ENVIRONMENT/TASK/NAME.yaml, and use prompt=NAME",
    "data": "a relative path inside the repository, such as data=data/NAME",
    "python": "null, which is the interpreter of `pr2l sim install`",
    "server": "http://127.0.0.1:8000, where everybody can start `vllm serve`",
}
OTHERWISE = "a Hub id, a name that comes with pr2l, or a relative path inside the repository"


def check_public(row: dict[str, Any], where: str) -> None:
    """Check that all texts of a row make sense on every machine.

    Args:
        row: The JSON values of the row.
        where: The file or folder that the row comes from, for error messages.

    Raises:
        UserError: If a text holds an absolute path, a path outside the repository, a user name in an address, or the
            address of a server. The message says what to use instead.
    """
    texts = {text: key for key, text in reversed([*_texts(row)])}  # each text once
    local = [(key, text) for text, key in texts.items() if _is_local(key, text)]
    if not local:
        return
    lines = [f"  {key} = {text!r}: use {INSTEAD.get(key.rpartition('.')[2], OTHERWISE)}" for key, text in local]
    raise UserError(
        f"{where} cannot be published, because it names paths or addresses of one machine:\n"
        + "\n".join(reversed(lines))
        + "\nTrain with these values and submit that run."
    )


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield all texts of nested JSON values with their keys, in order; keys of dicts are texts too."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield key, name
            yield from _texts(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, key)
    elif isinstance(value, str):
        yield key, value


def _is_local(key: str, text: str) -> bool:
    return bool(LOCAL.search(text)) or _names_path(text) or _is_folder_of_model(key, text) or _is_address(key, text)


def _names_path(text: str) -> bool:
    """Return whether a text, or a word in it, is an absolute path that exists on this machine."""
    words = {text, *(word.rstrip(".:!?") for word in BETWEEN.split(text))}
    return any(os.path.isabs(word) and word.strip("/") and os.path.exists(word) for word in words)


def _is_folder_of_model(key: str, text: str) -> bool:
    """Return whether a text is the folder of a model in the working folder; elsewhere it names a model of the Hub."""
    if key.rpartition(".")[2] not in MODELS or not os.path.isdir(text):
        return False
    from pr2l.vlms.checkpoint import shipped  # takes two seconds

    return text not in shipped()


def _is_address(key: str, text: str) -> bool:
    """Return whether a text is the address of a server on another machine."""
    return key.endswith(".server") and urlsplit(text).hostname not in OWN_SERVER
