"""Places in JSON, for tests that put something else there."""

from __future__ import annotations


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Keys and numbers that lead to each value, the whole first."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


def holder(value: object, path: tuple) -> dict | list:
    """The object or array in which the last key or number of a place is looked up."""
    for key in path[:-1]:
        value = value[key]
    return value
