# SPDX-License-Identifier: Apache-2.0
"""A plan at work: who directs the calls of a model."""
