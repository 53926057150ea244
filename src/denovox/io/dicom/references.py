"""Items of DICOM sequences that refer to something: a code, or another image."""

from __future__ import annotations

from typing import Any

from pydicom import Dataset


def code(concept: Any) -> Dataset:
    """A code (PS3.3 8.8), such as one of `pydicom.sr.codedict`."""
    found = Dataset()
    found.CodeValue, found.CodingSchemeDesignator = concept.value, concept.scheme_designator
    found.CodeMeaning = concept.meaning
    return found


def reference(sop_class: str, sop_instance: str) -> Dataset:
    """An image (PS3.3 10.3)."""
    found = Dataset()
    found.ReferencedSOPClassUID = sop_class
    found.ReferencedSOPInstanceUID = sop_instance
    return found
