# SPDX-License-Identifier: Apache-2.0
"""Trees of guesses, and what guesses them."""
