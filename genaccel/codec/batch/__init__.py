# SPDX-License-Identifier: Apache-2.0
"""Codes many files: with each model loaded once, and with Ray on many machines."""
