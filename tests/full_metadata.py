# SPDX-License-Identifier: Apache-2.0
"""Metadata with all fields, in several scripts."""

from genaccel.codec.format.metadata import PhotoMetadata

FULL = PhotoMetadata(
    date="2026-11-30T07:40:37+01:00",
    author="Ada Lovelace; רות כהן",
    copyright="© 2026 <Ada> & Co",
    description="Zwei Zeilen\nund ein 👩‍👩‍👧",
    camera_make="Canon",
    camera_model="EOS R5",
    lens="RF 50mm F1.2",
    exposure_time="1/250",
    f_number="2.8",
    iso="100",
    focal_length="50",
    position="-48.858222,2.2945,-35.5",
)
