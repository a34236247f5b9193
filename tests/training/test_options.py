# SPDX-License-Identifier: Apache-2.0
import math
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from genaccel.training.options import (
    ABOVE_0,
    AT_LEAST_1,
    SHARE,
    SHARE_ABOVE_0,
    SHARE_BELOW_1,
    Option,
    check,
    documented,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Numbers:
    """Some.

    Args:
        width: Of the ``network``,
            see :class:`Numbers`.

    Raises:
        ValueError: Not an argument.
    """

    width: Annotated[int, Option(), AT_LEAST_1] = 1
    rate: Annotated[float | None, ABOVE_0] = None
    kind: Literal["a", "b"] = "a"
    plain: int = 0

    def __post_init__(self):
        check(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class More(Numbers):
    """Further ones.

    Args:
        depth: In layers.
    """

    depth: Annotated[int, AT_LEAST_1] = 1


@pytest.mark.parametrize(
    ("interval", "inside", "outside", "text"),
    [
        (AT_LEAST_1, (1, 7), (0, -1, math.inf, math.nan), "at least 1"),
        (ABOVE_0, (1e-9, 5), (0, -1, math.inf, math.nan), "above 0"),
        (SHARE, (0, 1), (-0.1, 1.1, math.nan), "in [0, 1]"),
        (SHARE_ABOVE_0, (0.1, 1), (0, 1.1), "in (0, 1]"),
        (SHARE_BELOW_1, (0, 0.9), (1, -0.1), "in [0, 1)"),
    ],
)
def test_an_interval_knows_its_ends(interval, inside, outside, text):
    assert str(interval) == text
    assert all(value in interval for value in inside)
    assert not any(value in interval for value in outside)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Numbers(width=0), "width must be at least 1, got 0"),
        (lambda: Numbers(rate=0.0), "rate must be above 0, got 0.0"),
        (lambda: Numbers(kind="c"), 'kind must be "a" or "b", got \'c\''),
        (lambda: More(width=0), "width must be at least 1"),
        (lambda: More(depth=0), "depth must be at least 1"),
    ],
)
def test_a_configuration_is_checked_by_its_annotations(make, message):
    with pytest.raises(ValueError, match=message):
        make()
    assert More(plain=-3).rate is None


def test_docstrings_say_what_arguments_are():
    assert documented(Numbers) == {"width": "Of the network, see Numbers."}
    assert documented(More) == {"width": "Of the network, see Numbers.", "depth": "In layers."}

    class Maker:
        """Makes.

        Args:
            width: In pixels.
        """

        @classmethod
        def make(cls):
            """Make.

            Args:
                depth: In bits.
            """

    assert documented(Maker.make) == {"width": "In pixels.", "depth": "In bits."}
