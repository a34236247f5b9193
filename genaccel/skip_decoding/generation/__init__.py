# SPDX-License-Identifier: Apache-2.0
"""``generate`` of models of transformers, decoded speculatively."""
