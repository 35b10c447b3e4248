"""Check of a row before it is published: it must not hold paths, addresses or names of one machine.

Such a value is of no use to others, and a path such as /home/NAME/... gives the name of a user away.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from pr2l.core.errors import UserError

LOCAL = re.compile(
    r"""
    (?:^|=)["']?/[^/\s]                    # an absolute path as a value: /data, vlm=/data
    | (?<![\w.~$}/-])/[\w.~-]+/            # or with a folder, inside a text
    | (?:^|[=\s"'(\[{,:])~[\w.-]*/         # ~/models, ~ada/models
    | (?:^|[=\s"'/\\])\.\.(?:[/\\]|$)      # ../models
    | (?<!\w)file:/ | (?<!\w)[A-Za-z]:[\\/] | ^\\\\\w
    | ://[^/\s]*@                          # an address with a user name
    """,
    re.VERBOSE,
)
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
    local = [(key, text) for text, key in texts.items() if LOCAL.search(text) or _is_address(key, text)]
    if not local:
        return
    lines = [f"  {key} = {text!r}: use {INSTEAD.get(key.rpartition('.')[2], OTHERWISE)}" for key, text in local]
    raise UserError(
        f"{where} cannot be published, because it names what is on one machine only:\n"
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


def _is_address(key: str, text: str) -> bool:
    """Return whether a text is the address of a server on another machine."""
    return key.endswith(".server") and urlsplit(text).hostname not in OWN_SERVER
