# SPDX-License-Identifier: Apache-2.0
"""Measuring image codecs: one metric a file; each runs as ``python -m genaccel.eval.<name>`` too."""
