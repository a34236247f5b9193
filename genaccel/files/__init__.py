# SPDX-License-Identifier: Apache-2.0
"""Files: written whole or not at all, read as pictures, handed to workers."""
