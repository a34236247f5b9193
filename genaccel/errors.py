# SPDX-License-Identifier: Apache-2.0
"""Exceptions that callers of genaccel may want to tell apart."""


class BitstreamError(ValueError):
    """A compressed file is damaged, truncated, or not one of ours."""


class UnknownModelError(LookupError):
    """A file or a user names a model that is not installed here, or differs from the one installed."""


class LimitExceededError(ValueError):
    """An image or a file asks for more pixels or memory than the caller allowed."""


class UnsupportedImageError(ValueError):
    """An image has what 8-bit sRGB pixels do not hold, and the caller has not said what to do about it."""


class OptionError(ValueError):
    """An option asks for what a model or a file does not have."""


class TargetSizeError(LimitExceededError):
    """An image cannot be made as small as the caller asked."""


class LibraryMissingError(ImportError):
    """The native library was not built, or does not load."""


class WorkerDiedError(RuntimeError):
    """A worker process was killed, or crashed, on a file."""
