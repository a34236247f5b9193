# SPDX-License-Identifier: Apache-2.0
"""The page of :mod:`genaccel.eval.report`: reading runs, pictures, tables, and the files of style and script."""
