"""Message format between a worker and its parent: JSON, followed by arrays as raw bytes. Python >= 3.9.

    magic 4s | version H | bytes of JSON I | bytes of arrays I | JSON | arrays        (big-endian)

In the JSON, {"__array__": [dtype, shape, offset]} stands for an array, and {"__tuple__": [...]} for a tuple. A message
cannot run code: it contains no pickle, and arrays have only numeric dtypes.
"""

from __future__ import annotations

import json
import math
import socket
import struct
from typing import Any

import numpy as np

MAGIC, VERSION = b"pr2l", 1
HEADER = struct.Struct("!4sHII")
LIMIT = 1 << 28  # most bytes of JSON, and of arrays, in a message; a larger number means a corrupt stream
ARRAY, TUPLE = "__array__", "__tuple__"
KINDS = "biufc"  # kinds of dtypes in messages: bool, integers, floats, complex numbers


class WireError(Exception):
    """Error for bytes that are not a message, or for a value that cannot be sent."""


def send(connection: socket.socket, value: Any) -> None:
    """Encode a value and send it as one message; see `encode`.

    Args:
        connection: Connected stream socket.
        value: JSON value that may contain arrays.

    Raises:
        WireError: The value cannot be sent.
        OSError: The connection is closed or broken.
    """
    connection.sendall(encode(value))


def receive(connection: socket.socket) -> Any:
    """Receive and decode the next message.

    Args:
        connection: Connected stream socket, in which a message begins.

    Raises:
        EOFError: If the stream ends before a message begins.
        WireError: If the stream ends within a message, or contains something else.
        TimeoutError: If the socket's own timeout expires.
    """
    json_size, array_size = sizes(_read(connection, HEADER.size, within_message=False))
    return decode(_read(connection, json_size), _read(connection, array_size))


def encode(value: Any) -> bytes:
    """Encode a value as a message.

    Args:
        value: None, bool, int, float, str, NumPy scalars and arrays of numbers, and lists, tuples and dicts (with str
            keys) of these.

    Raises:
        WireError: If the value is of another type, or too large.
    """
    arrays: list[bytes] = []
    try:
        text = json.dumps(_lower(value, arrays)).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"the values of a message must be JSON values and arrays: {error}") from error
    data = b"".join(arrays)
    _check_sizes(len(text), len(data))
    return HEADER.pack(MAGIC, VERSION, len(text), len(data)) + text + data


def sizes(header: bytes) -> tuple[int, int]:
    """Return the numbers of bytes of the JSON and of the arrays after a header.

    Args:
        header: The first HEADER.size bytes of a message.

    Raises:
        WireError: If the bytes are not a header of this version, or a number exceeds LIMIT.
    """
    magic, version, json_size, array_size = HEADER.unpack(header)
    if magic != MAGIC:
        raise WireError(f"expected the start of a message, got {magic!r}")
    if version != VERSION:
        raise WireError(
            f"the other process uses version {version} of the protocol, this one version {VERSION}; restart both"
        )
    _check_sizes(json_size, array_size)
    return json_size, array_size


def decode(text: bytes, data: bytes) -> Any:
    """Decode a message.

    Args:
        text: The JSON.
        data: The bytes of all arrays.

    Returns:
        The value that was encoded. Its arrays are writable; NumPy scalars are Python numbers.

    Raises:
        WireError: If the bytes are not a valid message.
    """
    try:
        return _lift(json.loads(text), data)
    except (ValueError, TypeError, RecursionError) as error:
        raise WireError(f"a message is invalid: {error}") from error


def _check_sizes(json_size: int, array_size: int) -> None:
    if max(json_size, array_size) > LIMIT:
        raise WireError(f"a message of {json_size + array_size} bytes is over the limit of {LIMIT}")


def _lower(value: Any, arrays: list[bytes]) -> Any:
    """Convert a value to JSON values, and append the bytes of its arrays to `arrays`."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in KINDS:
            raise WireError(f"arrays of {value.dtype} cannot be sent; only arrays of numbers")
        offset = sum(map(len, arrays))
        arrays.append(value.tobytes())
        return {ARRAY: [value.dtype.str, list(value.shape), offset]}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value) or ARRAY in value or TUPLE in value:
            raise WireError(f"keys of a dict must be strings other than {ARRAY} and {TUPLE}: {list(value)}")
        return {key: _lower(item, arrays) for key, item in value.items()}
    if isinstance(value, tuple):
        return {TUPLE: [_lower(item, arrays) for item in value]}
    if isinstance(value, list):
        return [_lower(item, arrays) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _lift(value: Any, data: bytes) -> Any:
    if isinstance(value, dict):
        if ARRAY in value:
            return _array(data, *value[ARRAY])
        if TUPLE in value:
            return tuple(_lift(item, data) for item in value[TUPLE])
        return {key: _lift(item, data) for key, item in value.items()}
    return [_lift(item, data) for item in value] if isinstance(value, list) else value


def _array(data: bytes, name: str, shape: list[int], offset: int) -> np.ndarray:
    dtype = np.dtype(name)
    if dtype.kind not in KINDS or not all(isinstance(side, int) and side >= 0 for side in (*shape, offset)):
        raise WireError(f"{name!r} {shape!r} at {offset!r} does not describe an array")
    end = offset + math.prod(shape) * dtype.itemsize
    if end > len(data):
        raise WireError(f"an array ends at byte {end}, but the message has {len(data)} bytes")
    return np.frombuffer(data[offset:end], dtype).reshape(shape).copy()


def _read(connection: socket.socket, size: int, within_message: bool = True) -> bytes:
    buffer = bytearray(size)
    done = 0
    while done < size:
        count = connection.recv_into(memoryview(buffer)[done:])
        if not count and not within_message and not done:
            raise EOFError
        if not count:
            raise WireError("the stream ended in the middle of a message")
        done += count
    return bytes(buffer)
