# SPDX-License-Identifier: Apache-2.0
"""Trains the codec's models: the stages of training, their export, and the conversion of the RDVQ authors' checkpoints."""
