# SPDX-License-Identifier: Apache-2.0
"""Index maps to range-coded bytes and back."""
