# SPDX-License-Identifier: Apache-2.0
"""The codec's file formats: ``.gac`` and that of the RDVQ authors, and the limits on what a file may ask for."""
