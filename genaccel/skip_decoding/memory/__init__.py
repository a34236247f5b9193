# SPDX-License-Identifier: Apache-2.0
"""A model's memory of rows: read, kept and forgotten."""
