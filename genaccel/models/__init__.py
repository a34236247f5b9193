# SPDX-License-Identifier: Apache-2.0
"""Networks, one a file, each with its params dataclass on top."""
