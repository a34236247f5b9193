# SPDX-License-Identifier: Apache-2.0
"""Codes index maps to bytes and back, with a range coder and the probabilities of tables or an entropy model."""
