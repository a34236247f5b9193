# SPDX-License-Identifier: Apache-2.0
"""``python -m genaccel.cli``."""

from genaccel.cli import main

main()
