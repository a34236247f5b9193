# SPDX-License-Identifier: Apache-2.0
"""Makes plans from measured errors: the steps to compute, and the forecasters of the others."""
