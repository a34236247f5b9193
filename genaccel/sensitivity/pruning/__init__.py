# SPDX-License-Identifier: Apache-2.0
"""Which tokens a reused step computes again."""
