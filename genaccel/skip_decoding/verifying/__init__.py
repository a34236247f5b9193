# SPDX-License-Identifier: Apache-2.0
"""Which guesses stay, and which rounds are not verified at all."""
