"""Plain values (parsed JSON or TOML) as frozen dataclasses: the annotations are the file format."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


class Malformed(ValueError):
    """A value is not of the kind that its field has; the message names the field and the remedy."""


def decode(kind: Any, raw: Any, where: str) -> Any:
    """`raw` as a value of the type `kind`. Raises Malformed, which begins with `where`.

    Knows dataclasses, tuples, lists, dicts, `X | None`, `X | tuple[...]`, Literal, and plain values; whole numbers
    pass as floats, and a value that is already of its type (a protocol's implementation, say) stays as it is.
    """
    origin, args = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, raw, where)
    if origin in (Union, types.UnionType):
        return None if raw is None else decode(_fitting(args, raw), raw, where)
    if origin is dict:
        return {str(key): decode(args[1], value, f"{where}.{key}") for key, value in _table(raw, where).items()}
    if origin in (list, tuple):
        return _sequence(origin, args, raw, where)
    if origin is Literal:
        if raw not in args:
            raise Malformed(f"{where} = {raw!r}: give one of {', '.join(map(repr, args))}")
        return raw
    return _plain(kind, raw, where) if kind in KINDS else raw


def _fitting(kinds: tuple[Any, ...], raw: Any) -> Any:
    """Of the kinds of a union, the sequence for a list, and the first for anything else."""
    sequences = [kind for kind in kinds if get_origin(kind) in (list, tuple)]
    return sequences[0] if sequences and isinstance(raw, (list, tuple)) else kinds[0]


def _table(raw: Any, where: str) -> Mapping[Any, Any]:
    if not isinstance(raw, Mapping):
        raise Malformed(f"{where} = {raw!r:.60}: give a table")
    return raw


def _dataclass(kind: Any, raw: Any, where: str) -> Any:
    found = _table(raw, where)
    wanted = {spec.name: spec for spec in dataclasses.fields(kind)}
    for name in found:
        if name not in wanted:
            raise Malformed(f"{where}: unknown key {name!r}; known are {', '.join(wanted)}")
    for name, spec in wanted.items():
        optional = spec.default is not dataclasses.MISSING or spec.default_factory is not dataclasses.MISSING
        if name not in found and not optional:
            raise Malformed(f"{where}: the key {name!r} is missing")
    hints = get_type_hints(kind)
    return kind(**{name: decode(hints[name], value, f"{where}.{name}") for name, value in found.items()})


def _sequence(origin: type, args: tuple[Any, ...], raw: Any, where: str) -> Any:
    if not isinstance(raw, (list, tuple)):
        raise Malformed(f"{where} = {raw!r:.60}: give a list")
    each = origin is list or args[-1] is ...
    kinds = (args[0],) * len(raw) if each else args
    if len(kinds) != len(raw):
        raise Malformed(f"{where} has {len(raw)} values; give {len(kinds)}")
    pairs = enumerate(zip(kinds, raw, strict=True))
    return origin(decode(kind, value, f"{where}[{number}]") for number, (kind, value) in pairs)


def _plain(kind: Any, raw: Any, where: str) -> Any:
    if kind is float and isinstance(raw, int) and not isinstance(raw, bool):
        raw = float(raw)
    # A bool is an int to Python, but not to whoever writes the file.
    if not isinstance(raw, kind) or (isinstance(raw, bool) and kind is not bool):
        raise Malformed(f"{where} = {raw!r:.60}: give {KINDS[kind]}")
    if kind is float and not math.isfinite(raw):
        raise Malformed(f"{where} = {raw!r}: give a finite number")
    return raw
