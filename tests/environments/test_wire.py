"""Encoding and decoding of messages, and errors for invalid bytes."""

import socket
import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pr2l.environments.isolation import wire
from pr2l.environments.isolation.wire import HEADER, LIMIT, MAGIC, VERSION, WireError, decode, encode, receive

dtypes = st.one_of(
    arrays.boolean_dtypes(),
    arrays.integer_dtypes(endianness="?"),
    arrays.unsigned_integer_dtypes(endianness="?"),
    arrays.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    arrays.complex_number_dtypes(endianness="?", sizes=(64, 128)),
)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    arrays.arrays(dtypes, arrays.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=4)),
)
KEYS = st.text().filter(lambda key: key not in ("__array__", "__tuple__"))  # which the protocol reserves
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(KEYS, inner)),
    max_leaves=12,
)


def equal(a, b):
    """Return whether values, types and dtypes are equal; NaN equals NaN."""
    if isinstance(a, np.ndarray):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and (a == b or a != a and b != b)


def parts(message):
    """Return the JSON and the arrays of a message."""
    end = HEADER.size + HEADER.unpack(message[: HEADER.size])[2]
    return message[HEADER.size : end], message[end:]


def receive_bytes(stream):
    """Return what receive() returns for a stream that then ends."""
    sender, receiver = socket.socketpair()
    with sender, receiver:
        sender.sendall(stream)
        sender.close()
        return receive(receiver)


@given(values)
def test_decoded_message_equals_the_value(value):
    assert equal(decode(*parts(encode(value))), value)


@given(st.lists(values, max_size=3))
def test_messages_of_a_stream_are_received_in_order(messages):
    sender, receiver = socket.socketpair()
    with sender, receiver:
        for value in messages:
            wire.send(sender, value)
        sender.close()
        for value in messages:
            assert equal(receive(receiver), value)
        with pytest.raises(EOFError):
            receive(receiver)


@given(values, st.data())
def test_truncated_message_raises(value, data):
    message = encode(value)
    length = data.draw(st.integers(1, len(message) - 1))
    with pytest.raises(WireError, match="the stream ended in the middle"):
        receive_bytes(message[:length])


@given(st.binary(min_size=HEADER.size))
def test_other_bytes_raise(stream):
    with pytest.raises(WireError):
        receive_bytes(stream)


@given(st.binary(), st.binary())
def test_decode_of_any_bytes_raises_wire_error_only(text, arrays):
    with suppress(WireError):
        decode(text, arrays)


@pytest.mark.parametrize(
    "text",
    [
        '{"__array__": ["|O", [1], 0]}',
        '{"__array__": ["<f4", [3], 0]}',
        '{"__array__": ["<f4", [1], 1]}',
        '{"__array__": ["<f4", [-1], 0]}',
        '{"__array__": ["<f4", [1], -4]}',
        '{"__array__": ["<f4", [1.5], 0]}',
        '{"__array__": ["nonsense", [1], 0]}',
        '{"__array__": [["x"], [1], 0]}',
        '{"__array__": ["<f4"]}',
        '{"__array__": 3}',
        '{"__tuple__": 3}',
        "[" * 100_000,
    ],
)
def test_invalid_array_description_raises(text):
    with pytest.raises(WireError):
        decode(text.encode(), b"\0\0\0\0")


def test_message_over_the_limit_raises_before_it_is_read(monkeypatch):
    for sizes in ((LIMIT + 1, 0), (0, LIMIT + 1)):
        with pytest.raises(WireError, match="over the limit"):
            receive_bytes(HEADER.pack(MAGIC, VERSION, *sizes))
    monkeypatch.setattr(wire, "LIMIT", 10)
    for value in (np.zeros(11, np.uint8), "eleven char"):
        with pytest.raises(WireError, match="over the limit of 10"):
            encode(value)


def test_other_version_raises():
    with pytest.raises(WireError, match="version 2 of the protocol, this one version 1"):
        receive_bytes(struct.pack("!4sHII", b"pr2l", 2, 0, 0))


@pytest.mark.parametrize("value", [object(), {1: 2}, {"__array__": 1}, {"__tuple__": 1}, np.array([None]), {1, 2}, b""])
def test_values_that_cannot_be_encoded_raise(value):
    with pytest.raises(WireError):
        encode([value])


def test_numpy_scalars_are_decoded_as_python_numbers():
    assert decode(*parts(encode([np.float32(0.5), np.int64(3), np.bool_(True)]))) == [0.5, 3, True]
