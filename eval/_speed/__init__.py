# SPDX-License-Identifier: Apache-2.0
"""Speed of functions: finding them by name, what one call takes, and the record of a comparison."""
