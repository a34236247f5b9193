# SPDX-License-Identifier: Apache-2.0
"""The parts of :mod:`genaccel.eval.report`: they read runs, and make pictures, tables and the page's own files."""
