# SPDX-License-Identifier: Apache-2.0
"""Plans, which say what each step of an accelerated run computes: their files, and the runs they are made for."""
