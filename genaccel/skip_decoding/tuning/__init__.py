# SPDX-License-Identifier: Apache-2.0
"""What is measured on this machine, and chosen by it."""
