"""Keys and values as bytes.

A record is ``key length (4) | key | kind (1) | value``. A key is encoded so that different keys
have different bytes in every process, which pickle does not promise; a value that is not bytes
is pickled.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Hashable
from typing import Any, cast

Buffer = bytes | memoryview

_PICKLE_PROTOCOL = 5
_RAW = b"r"
_PICKLED = b"p"
_LENGTH = struct.Struct("<I")
_FLOAT = struct.Struct("<d")

_UTF_8 = "utf-8", "surrogatepass"
_STR_TAG = b"s"
_BYTES, _STR, _INT, _FLOAT_KEY, _BOOL, _NONE, _TUPLE = b"bsifonT"


def encode_key(key: Hashable) -> bytes:
    """How a record with ``key`` begins. Types are told apart: 1, 1.0 and True are three keys.

    Raises TypeError for anything but bytes, str, int, float, bool, None and tuples of these.
    """
    # Most keys are text, and each get encodes one.
    body = _STR_TAG + key.encode(*_UTF_8) if type(key) is str else _encode(key)
    return len(body).to_bytes(4, "little") + body


def decode_key(record: bytes) -> Hashable:
    """The key of a record that :func:`encode_key` began."""
    (length,) = _LENGTH.unpack_from(record)
    return _decode(record[_LENGTH.size : _LENGTH.size + length])


def encode_value(value: object) -> tuple[bytes, bytes]:
    """(kind, bytes) of a value. Raises what pickle raises."""
    if type(value) is bytes:
        return _RAW, value
    return _PICKLED, pickle.dumps(value, _PICKLE_PROTOCOL)


def decode_value(record: bytes, start: int) -> Any:
    """The value of a record, from its kind at ``start`` on. Raises what pickle raises."""
    if record.startswith(_RAW, start):
        return record[start + 1 :]
    return pickle.loads(memoryview(record)[start + 1 :])


def _encode(key: Hashable) -> bytes:
    kind = type(key)  # not isinstance: a subclass may mean something else
    if kind is str:
        return _STR_TAG + cast(str, key).encode(*_UTF_8)
    if kind is bytes:
        return b"b" + cast(bytes, key)
    if kind is int:
        return b"i" + format(cast(int, key), "x").encode()
    if kind is tuple:
        parts = [_encode(item) for item in cast(tuple[Hashable, ...], key)]
        return b"T" + b"".join(_LENGTH.pack(len(part)) + part for part in parts)
    if key is None:
        return b"n"
    if kind is bool:
        return b"o1" if key is True else b"o0"
    if kind is float:
        return b"f" + _FLOAT.pack(cast(float, key))
    raise TypeError(
        f"a key of type {kind.__name__} is not supported;"
        " use bytes, str, int, float, bool, None or tuples of these"
    )


def _decode(body: bytes) -> Hashable:
    kind, rest = body[0], body[1:]
    if kind == _STR:
        return rest.decode(*_UTF_8)
    if kind == _BYTES:
        return rest
    if kind == _INT:
        return int(rest, 16)
    if kind == _FLOAT_KEY:
        found: float = _FLOAT.unpack(rest)[0]
        return found
    if kind == _BOOL:
        return rest == b"1"
    if kind == _NONE:
        return None
    assert kind == _TUPLE, "an encoded key begins with its type"
    parts = []
    at = 0
    while at < len(rest):
        end = at + _LENGTH.size + _LENGTH.unpack_from(rest, at)[0]
        parts.append(_decode(rest[at + _LENGTH.size : end]))
        at = end
    return tuple(parts)
