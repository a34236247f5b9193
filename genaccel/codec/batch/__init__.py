# SPDX-License-Identifier: Apache-2.0
"""Many files: one codec for all, workers, Ray."""
