"""What reading a file found that the user should know; it stays with the image until the input guard tells it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import astuple

import SimpleITK as sitk

from .result import Finding

#: metadata of an image that holds its remarks, as JSON
REMARKS = "SESegmentation_remarks"


def add_remarks(image: sitk.Image, findings: Iterable[Finding]) -> None:
    """Keep ``findings`` with ``image``, after those that it has."""
    every = [*remarks_of(image), *findings]
    if every:
        image.SetMetaData(REMARKS, json.dumps([astuple(finding) for finding in every]))


def remarks_of(image: sitk.Image) -> list[Finding]:
    """What was remarked on when ``image`` was read."""
    if not image.HasMetaDataKey(REMARKS):
        return []
    return [Finding(*remark) for remark in json.loads(image.GetMetaData(REMARKS))]
