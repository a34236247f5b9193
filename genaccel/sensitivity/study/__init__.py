# SPDX-License-Identifier: Apache-2.0
"""Pipelines measured and tuned over many generations."""
