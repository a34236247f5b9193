# SPDX-License-Identifier: Apache-2.0
"""What each training run trains."""
