# SPDX-License-Identifier: Apache-2.0
"""Recipes of training: each has the model, the data and the losses of one kind of run."""
