# SPDX-License-Identifier: Apache-2.0
"""The one training loop, and its parts: run folders, crops, precision, losses; ``recipes`` has what is trained."""
