# SPDX-License-Identifier: Apache-2.0
"""Metrics of sets of images: sources, networks, moments of their features, and the command."""
