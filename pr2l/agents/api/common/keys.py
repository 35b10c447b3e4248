"""Keys of APIs, which come from environment variables alone, and stay out of every text."""

from __future__ import annotations

import os
import re

from pr2l.core.errors import UserError

HIDDEN = "[key]"
PLAIN_URL = "^https?://[^@/?#]+(/[^@?#]*)?$"  # without a user, password or query, because options are written to files


def read_key(variable: str) -> str:
    """Return the key in an environment variable.

    Args:
        variable: Name of the variable.

    Raises:
        UserError: The variable is not set, or its value cannot be a key. The error does not have the value.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(
            f"the environment variable {variable} is not set; set it to your key, or name another variable with the"
            " option key_variable"
        )
    if not re.fullmatch(r"[!-~]+", key):
        raise UserError(f"the environment variable {variable} holds a space or a special character; set it to a key")
    return key


def without_key(text: str, key: str) -> str:
    """Return a text in which a key is replaced, because a server may repeat the key in its errors.

    Args:
        text: A text from elsewhere.
        key: The key; "" = there is none.
    """
    return text.replace(key, HIDDEN) if key else text
