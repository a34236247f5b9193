# SPDX-License-Identifier: Apache-2.0
"""Diffusers pipelines with genaccel's methods built in."""
