# SPDX-License-Identifier: Apache-2.0
"""Image data: photographs that a distribution's packages carry, and a deterministic data set of crops."""
