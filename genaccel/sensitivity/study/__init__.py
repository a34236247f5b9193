# SPDX-License-Identifier: Apache-2.0
"""Calibrates and tunes plans of a pipeline over many generations."""
