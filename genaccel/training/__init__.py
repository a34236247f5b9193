# SPDX-License-Identifier: Apache-2.0
"""What all training runs share: run folders, schedules, numbered samples."""
