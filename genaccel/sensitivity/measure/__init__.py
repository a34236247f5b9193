# SPDX-License-Identifier: Apache-2.0
"""What is measured of a run, to plan others."""
