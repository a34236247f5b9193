# SPDX-License-Identifier: Apache-2.0
"""What an accelerated run computes: plans, their files, and what they belong to."""
