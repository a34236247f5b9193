# SPDX-License-Identifier: Apache-2.0
"""The codec's files: their header, their sections, and what a file may ask for."""
