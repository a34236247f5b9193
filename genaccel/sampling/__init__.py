# SPDX-License-Identifier: Apache-2.0
"""Pipelines loaded, run with seeds, counted, timed in turn, and compared by their images; whatever accelerates them."""
