# SPDX-License-Identifier: Apache-2.0
"""Token pruning: chooses how many tokens of a feed-forward a reused step computes again."""
