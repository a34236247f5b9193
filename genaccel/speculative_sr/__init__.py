# SPDX-License-Identifier: Apache-2.0
"""PS-SR: super-resolution with one strong step, cheap speculative drafts, and only high frequencies let through."""
