# SPDX-License-Identifier: Apache-2.0
"""Attaches accelerators to diffusers models: blocks are found by signature, hooks are per instance and undone bit for bit."""
