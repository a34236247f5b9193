# SPDX-License-Identifier: Apache-2.0
"""How an accelerator attaches to a diffusers model: found by signature, kept per instance, undone bit for bit."""
