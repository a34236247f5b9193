# SPDX-License-Identifier: Apache-2.0
"""What :mod:`genaccel.eval.report` is made of: reading runs, pictures, tables, and the page's own files."""
