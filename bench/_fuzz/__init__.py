# SPDX-License-Identifier: Apache-2.0
"""What bench/fuzz.py is made of: kinds of mutants, and the processes that run them under watch."""
