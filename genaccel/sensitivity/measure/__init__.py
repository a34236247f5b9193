# SPDX-License-Identifier: Apache-2.0
"""Measures unaccelerated runs: the errors that forecasts would make, which plans are made from."""
