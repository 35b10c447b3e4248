"""Messages come out as they went in, and no other bytes come out at all."""

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
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(st.text(), inner)),
    max_leaves=12,
)


def same(one, other):
    if isinstance(one, np.ndarray):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or one != one and other != other)


def parts(message):
    """The JSON and the arrays of a message."""
    text = HEADER.size + HEADER.unpack(message[: HEADER.size])[2]
    return message[HEADER.size : text], message[text:]


def received(stream):
    """What receive() makes of a stream that ends."""
    one, other = socket.socketpair()
    with one, other:
        one.sendall(stream)
        one.close()
        return receive(other)


@given(values)
def test_a_message_comes_out_as_it_went_in(value):
    assert same(decode(*parts(encode(value))), value)


@given(st.lists(values, max_size=3))
def test_messages_come_out_of_a_stream_one_by_one(several):
    one, other = socket.socketpair()
    with one, other:
        for value in several:
            wire.send(one, value)
        one.close()
        for value in several:
            assert same(receive(other), value)
        with pytest.raises(EOFError):
            receive(other)


@given(values, st.data())
def test_a_message_that_is_cut_short_is_an_error(value, data):
    message = encode(value)
    length = data.draw(st.integers(1, len(message) - 1))
    with pytest.raises(WireError, match="the stream ended in the middle"):
        received(message[:length])


@given(st.binary(min_size=HEADER.size))
def test_bytes_that_are_no_message_are_an_error(stream):
    with pytest.raises(WireError):
        received(stream)


@given(st.binary(), st.binary())
def test_what_is_in_a_message_is_not_trusted(text, beside):
    with suppress(WireError):
        decode(text, beside)


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
def test_an_array_that_is_not_there_is_an_error(text):
    with pytest.raises(WireError):
        decode(text.encode(), b"\0\0\0\0")


def test_a_message_that_is_too_large_is_refused_before_it_is_read(monkeypatch):
    for sizes in ((LIMIT + 1, 0), (0, LIMIT + 1)):
        with pytest.raises(WireError, match="over the limit"):
            received(HEADER.pack(MAGIC, VERSION, *sizes))
    monkeypatch.setattr(wire, "LIMIT", 10)
    for value in (np.zeros(11, np.uint8), "eleven char"):
        with pytest.raises(WireError, match="over the limit of 10"):
            encode(value)


def test_another_version_is_refused():
    with pytest.raises(WireError, match="speaks version 2, this one 1"):
        received(struct.pack("!4sHII", b"pr2l", 2, 0, 0))


@pytest.mark.parametrize("value", [object(), {1: 2}, {"__array__": 1}, {"__tuple__": 1}, np.array([None]), {1, 2}, b""])
def test_what_cannot_cross_is_said(value):
    with pytest.raises(WireError):
        encode([value])


def test_numpy_scalars_become_numbers():
    assert decode(*parts(encode([np.float32(0.5), np.int64(3), np.bool_(True)]))) == [0.5, 3, True]
