# SPDX-License-Identifier: Apache-2.0
"""How the codec's models come to be: the stages of training, export, and other people's checkpoints."""
