"""What a number hangs on, as one value: two numbers are comparable only where their protocols have the same hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any


def protocol_hash(protocol: Mapping[str, Any]) -> str:
    """SHA-256, 64 hexadecimal digits, of a protocol of plain values, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Where two protocols differ: dotted key to both values, None for a key that one lacks."""
    one, other = dict(leaves(a)), dict(leaves(b))
    keys = [*one, *(key for key in other if key not in one)]
    return {key: (one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)}


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in nested mappings that is none itself."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from leaves(part, f"{place}.{key}" if place else str(key))
    else:
        yield place, value
