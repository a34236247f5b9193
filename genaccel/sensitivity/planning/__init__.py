# SPDX-License-Identifier: Apache-2.0
"""From measured errors to a plan."""
