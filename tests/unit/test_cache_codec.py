"""Keys and values of VolatileCache as bytes."""

from __future__ import annotations

import enum
import pickle
import subprocess
import sys
from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.waiting import PATIENCE
from vfs_volatile.client.cache.codec import decode_key, decode_value, encode_key, encode_value

SIMPLE = (
    st.binary(max_size=8)
    | st.text(max_size=8)
    | st.integers()
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.none()
)
KEYS = st.recursive(SIMPLE, lambda inner: st.lists(inner, max_size=4).map(tuple))


def shape(key: Hashable) -> object:
    """Equal for keys that are equal and of equal types, to the last item."""
    if isinstance(key, tuple):
        return tuple(shape(item) for item in key)
    return type(key), repr(key)


@given(KEYS)
def test_a_key_comes_back_as_it_was(key: Hashable) -> None:
    assert shape(decode_key(encode_key(key))) == shape(key)


@given(KEYS, KEYS)
def test_different_keys_have_different_bytes(one: Hashable, other: Hashable) -> None:
    assert (encode_key(one) == encode_key(other)) == (shape(one) == shape(other))


@given(KEYS, KEYS)
def test_no_key_begins_another(one: Hashable, other: Hashable) -> None:
    """Or a record of the one could be taken for a record of the other."""
    assert encode_key(one) == encode_key(other) or not encode_key(one).startswith(encode_key(other))


def test_a_key_has_the_same_bytes_in_every_process() -> None:
    program = (
        "from vfs_volatile.client.cache.codec import encode_key;"
        "print(encode_key(('a', b'b', 3, -2.5, True, None, ())).hex())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {encode_key(("a", b"b", 3, -2.5, True, None, ())).hex() + "\n"}


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize("key", [frozenset(), Colour.RED, object(), (1, [2]), bytearray(b"x")])
def test_other_keys_are_refused(key: Hashable) -> None:
    with pytest.raises(TypeError, match=r"is not supported; use bytes, str, int"):
        encode_key(key)


@pytest.mark.parametrize("value", [b"", b"bytes", "text", None, {"a": [1, 2.5]}, bytearray(b"x")])
def test_a_value_comes_back_as_it_was(value: object) -> None:
    kind, body = encode_value(value)
    found = decode_value(b"key" + kind + body, 3)
    assert found == value
    assert type(found) is type(value)


def test_bytes_are_not_pickled() -> None:
    assert encode_value(b"bytes")[1] == b"bytes"


def test_what_cannot_be_pickled_is_refused() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        encode_value(lambda: 1)
