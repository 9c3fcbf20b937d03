import numpy as np
import pytest

from deeplimits.checks import finite, instance, one_of, positive_integer


@pytest.mark.parametrize("value", [1, 40, np.int64(7)])
def test_positive_integer_accepts(value):
    assert positive_integer("depth", value) == value


@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-3, ValueError), (2.0, TypeError), ("4", TypeError), (True, TypeError), (None, TypeError)],
)
def test_positive_integer_refuses_and_names_the_argument(value, error):
    with pytest.raises(error, match=r"depth must be a positive integer, got .*; pass"):
        positive_integer("depth", value)


@pytest.mark.parametrize("value", [0, -1.5, np.float64(0.25)])
def test_finite_accepts(value):
    assert finite("beta", value) == value


@pytest.mark.parametrize(
    ("value", "error"),
    [(float("nan"), ValueError), (float("inf"), ValueError), ("0.5", TypeError), (True, TypeError), (1j, TypeError)],
)
def test_finite_refuses_and_names_the_argument(value, error):
    with pytest.raises(error, match=r"beta must be .*, got .*; pass a"):
        finite("beta", value)


def test_one_of():
    assert one_of("preset", "smoke", ["smoke", "paper"]) == "smoke"
    with pytest.raises(ValueError, match=r"preset must be one of 'smoke', 'paper', got 'Smoke'; check the spelling"):
        one_of("preset", "Smoke", ["smoke", "paper"])


def test_instance():
    instance("phi", 3, int, "pass an int")
    with pytest.raises(TypeError, match="phi must be of type int, got 'relu'; pass an int"):
        instance("phi", "relu", int, "pass an int")
