# SPDX-License-Identifier: Apache-2.0
"""Rate and distortion: codecs at their settings, the sweep over images, and the curves that it gives."""
