# SPDX-License-Identifier: Apache-2.0
"""Metrics of two images that show the same: folders to pairs, the command, and the measures that several metrics share."""
