# SPDX-License-Identifier: Apache-2.0
"""Image tokens drawn several at a time: speculative decoding of stock language models over image tokens."""
