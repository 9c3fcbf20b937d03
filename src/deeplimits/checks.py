"""Checks at the door: every message names the argument, what was expected, what was found and the cure."""

from collections.abc import Iterable
from math import isfinite
from numbers import Integral, Real


def positive_integer(name: str, value: object) -> int:
    """Return ``value`` as an int; TypeError if it is no integer, ValueError if it is not positive."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(
            f"{name} must be a positive integer, got {value!r} ({type(value).__name__}); pass an int such as 40"
        )
    if value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value}; pass 1 or more")
    return int(value)


def finite(name: str, value: object) -> float:
    """Return ``value`` as a float; TypeError if it is no real number, ValueError if it is not finite."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{name} must be a real number, got {value!r} ({type(value).__name__}); pass a float such as 0.5"
        )
    if not isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}; pass a finite number")
    return float(value)


def instance(name: str, value: object, kind: type, cure: str) -> None:
    """TypeError, ending in ``cure``, if ``value`` is no instance of ``kind``."""
    if not isinstance(value, kind):
        found = repr(value) if isinstance(value, str) else type(value).__name__
        raise TypeError(f"{name} must be of type {kind.__name__}, got {found}; {cure}")


def one_of(name: str, value: object, options: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``options``; ValueError otherwise."""
    options = tuple(options)
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}; check the spelling")
    return value
