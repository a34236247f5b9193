# SPDX-License-Identifier: Apache-2.0
"""Ranges of the numbers in a model's configuration, which may have been read from anyone's file.

A range is far wider than any model that was made, and so narrow that a network of its largest numbers can be described,
though not always allocated: what a folder's tensors take is compared with its file.
"""

from __future__ import annotations

from genaccel.files.untrusted import shown


def require_whole(name: str, value: object, low: int, high: int) -> None:
    """Refuse what is no int within ``low`` to ``high``; True and 1.0 are none.

    Raises:
        ValueError: With the name in the message.
    """
    if type(value) is not int:
        raise ValueError(f"{name} must be a whole number, got {shown(value)}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be in [{low}, {high}], got {shown(value)}")


def require_whole_numbers(name: str, values: object, low: int, high: int, *, most: int) -> None:
    """Refuse what is no tuple of 1 to ``most`` ints within ``low`` to ``high``.

    Raises:
        ValueError: With the name in the message.
    """
    if not isinstance(values, tuple) or not 1 <= len(values) <= most:
        raise ValueError(f"{name} must have 1 to {most} entries, got {shown(values)}")
    for value in values:
        require_whole(f"each of {name}", value, low, high)


def require_bool(name: str, value: object) -> None:
    """Refuse what is neither True nor False.

    Raises:
        ValueError: With the name in the message.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {shown(value)}")
