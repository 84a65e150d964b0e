"""Labels of a model: what a voxel value means, in words, in SNOMED CT and in colour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .fields import Fields

#: terminology contexts in which Slicer finds anatomical codes: its own list, and that of DICOM with some codes more
GENERAL_ANATOMY = "Segmentation category and type - 3D Slicer General Anatomy list"
DICOM_MASTER_LIST = "Segmentation category and type - DICOM master list"
#: SNOMED CT types of the second list alone
_MASTER_LIST_ONLY = {
    "5366008": "Hippocampus",
    "42695009": "Thalamus",
    "113305005": "Cerebellum",
    "427667007": "Nucleus accumbens",
    "49841001": "Third ventricle",
    "119238007": "Brain stem",
    "65216001": "Cerebrospinal Fluid",
}
#: anatomic context; Slicer writes it also where no region is given
ANATOMIC_CONTEXT = "Anatomic codes - DICOM master list"


@dataclass(frozen=True)
class Code:
    """One coded concept.

    Attributes:
        value: code value, for example "5366008".
        scheme: coding scheme designator, "SCT" for SNOMED CT.
        meaning: the concept in words, for example "Hippocampus".
    """

    value: str
    scheme: str
    meaning: str

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any], where: str = "code") -> Code:
        """Read ``{"value": ..., "scheme": ..., "meaning": ...}``; ModelError where that fails."""
        fields = Fields(entry, where)
        return cls(*(fields.text(key, forbidden="~^|", longest=200) for key in ("value", "scheme", "meaning")))

    def to_dict(self) -> dict[str, str]:
        """The code as it stands in model.json."""
        return {"value": self.value, "scheme": self.scheme, "meaning": self.meaning}

    def serialised(self) -> str:
        """``scheme^value^meaning``, Slicer's form."""
        return f"{self.scheme}^{self.value}^{self.meaning}"


@dataclass(frozen=True)
class Label:
    """One structure that a model finds.

    Attributes:
        value: voxel value in label maps, 1 to 65535.
        name: what the user reads, for example "left hippocampus".
        category: SNOMED CT category.
        type: SNOMED CT type.
        modifier: SNOMED CT modifier (side), or None.
        color: red, green, blue, 0 to 255.
        plausible_ml: smallest and largest plausible volume in ml, or None where nothing is known.
    """

    value: int
    name: str
    category: Code
    type: Code
    modifier: Code | None
    color: tuple[int, int, int]
    plausible_ml: tuple[float, float] | None = None

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any], where: str = "label") -> Label:
        """Read one entry of "labels" in model.json; ModelError where that fails."""
        fields = Fields(entry, where)
        color = fields.numbers("color", 3, whole=True, low=0, high=255)
        plausible = fields.numbers("plausible_ml", 2, low=0, high=1e6) if fields.has("plausible_ml") else None
        if plausible and plausible[0] >= plausible[1]:
            fields.fail("plausible_ml", "the smaller volume first")
        return cls(
            value=fields.integer("value", low=1, high=65535),
            name=fields.text("name", longest=200),
            category=Code.from_dict(fields.mapping("category"), f"{where}.category"),
            type=Code.from_dict(fields.mapping("type"), f"{where}.type"),
            modifier=Code.from_dict(fields.mapping("modifier"), f"{where}.modifier")
            if fields.has("modifier")
            else None,
            color=color,
            plausible_ml=plausible,
        )

    def to_dict(self) -> dict[str, Any]:
        """The label as it stands in model.json."""
        return {
            "value": self.value,
            "name": self.name,
            "category": self.category.to_dict(),
            "type": self.type.to_dict(),
            "modifier": self.modifier.to_dict() if self.modifier else None,
            "color": list(self.color),
            "plausible_ml": list(self.plausible_ml) if self.plausible_ml else None,
        }

    def terminology_entry(self) -> str:
        """The terminology string that Slicer keeps in a segment's ``TerminologyEntry`` tag."""
        modifier = self.modifier.serialised() if self.modifier else "^^"
        return "~".join(
            (
                DICOM_MASTER_LIST if self.type.value in _MASTER_LIST_ONLY else GENERAL_ANATOMY,
                self.category.serialised(),
                self.type.serialised(),
                modifier,
                ANATOMIC_CONTEXT,
                "^^",
                "^^",
            )
        )
