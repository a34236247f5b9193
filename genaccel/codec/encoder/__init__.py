# SPDX-License-Identifier: Apache-2.0
"""Choices of the encoder that no decoder has to know: sizes, rates, refined features."""
