# SPDX-License-Identifier: Apache-2.0
"""Faster, smaller generation for people who already use diffusers.

Importing the package is cheap: torch and the native library are loaded by the submodules that need them.
"""

__version__ = "0.1.0"
