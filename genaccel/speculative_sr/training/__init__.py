# SPDX-License-Identifier: Apache-2.0
"""Recipes of super-resolution: the base, and the draft for a base that is there."""
