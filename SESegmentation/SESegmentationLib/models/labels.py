"""Labels of a model: names and sides of structures, SNOMED CT codes and colours.

The codes are those of Slicer's own terminology; where it has none for a part (temporal horn, cerebellar cortex), the
code of the whole is used, and the name gives the part. Values of brain structures are FreeSurfer's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..files.json_files import Fields

#: terminology contexts in which Slicer finds anatomical codes: its own list, and DICOM's, which has more codes
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
#: name: (SNOMED CT code, meaning, (red, green, blue))
STRUCTURES: dict[str, tuple[str, str, tuple[int, int, int]]] = {
    "cerebral white matter": ("68523003", "Cerebral White Matter", (245, 245, 245)),
    "cerebral cortex": ("40146001", "Cerebral cortex", (205, 62, 78)),
    "lateral ventricle": ("66720007", "Lateral ventricle", (120, 18, 134)),
    "inferior lateral ventricle": ("66720007", "Lateral ventricle", (196, 58, 250)),
    "cerebellar white matter": ("33060004", "Cerebellar white matter", (220, 248, 164)),
    "cerebellar cortex": ("113305005", "Cerebellum", (230, 148, 34)),
    "thalamus": ("42695009", "Thalamus", (0, 118, 14)),
    "caudate": ("11000004", "Caudate nucleus", (122, 186, 220)),
    "putamen": ("89278009", "Putamen", (236, 13, 176)),
    "pallidum": ("14738005", "Globus pallidus", (12, 48, 255)),
    "hippocampus": ("5366008", "Hippocampus", (220, 216, 20)),
    "anterior hippocampus": ("5366008", "Hippocampus", (220, 216, 20)),
    "posterior hippocampus": ("5366008", "Hippocampus", (36, 152, 160)),
    "amygdala": ("4958002", "Amygdala", (103, 255, 255)),
    "accumbens": ("427667007", "Nucleus accumbens", (255, 165, 0)),
    "ventral diencephalon": ("87563008", "Diencephalon", (165, 42, 42)),
    "third ventricle": ("49841001", "Third ventricle", (204, 182, 142)),
    "fourth ventricle": ("35918002", "Fourth ventricle", (42, 204, 164)),
    "brain stem": ("119238007", "Brain stem", (119, 159, 176)),
    "cerebrospinal fluid": ("65216001", "Cerebrospinal Fluid", (60, 60, 60)),
    "liver": ("10200004", "Liver", (221, 130, 101)),
    "kidney": ("64033007", "Kidney", (185, 102, 83)),
    "spleen": ("78961009", "Spleen", (157, 108, 162)),
    "lung": ("39607008", "Lung", (197, 165, 145)),
    "trachea": ("44567001", "Trachea", (182, 228, 255)),
    "heart": ("80891009", "Heart", (206, 110, 84)),
    "aorta": ("15825003", "Aorta", (224, 97, 76)),
    "esophagus": ("32849002", "Esophagus", (211, 171, 143)),
    "stomach": ("69695003", "Stomach", (216, 132, 105)),
    "pancreas": ("15776009", "Pancreas", (249, 180, 111)),
    "gallbladder": ("28231008", "Gallbladder", (139, 150, 98)),
    "adrenal gland": ("23451007", "Adrenal gland", (249, 186, 150)),
    "urinary bladder": ("89837001", "Bladder", (222, 154, 132)),
    "prostate": ("41216001", "Prostate", (230, 158, 140)),
}
#: FreeSurfer's value on the left, on the right, name
PAIRED_BRAIN_STRUCTURES = (
    (2, 41, "cerebral white matter"),
    (3, 42, "cerebral cortex"),
    (4, 43, "lateral ventricle"),
    (5, 44, "inferior lateral ventricle"),
    (7, 46, "cerebellar white matter"),
    (8, 47, "cerebellar cortex"),
    (10, 49, "thalamus"),
    (11, 50, "caudate"),
    (12, 51, "putamen"),
    (13, 52, "pallidum"),
    (17, 53, "hippocampus"),
    (18, 54, "amygdala"),
    (26, 58, "accumbens"),
    (28, 60, "ventral diencephalon"),
)
MIDLINE_BRAIN_STRUCTURES = (
    (14, "third ventricle"),
    (15, "fourth ventricle"),
    (16, "brain stem"),
    (24, "cerebrospinal fluid"),
)
#: other names of structures in the terminology
ALIASES = {
    "accumbens area": "accumbens",
    "bladder": "urinary bladder",
    "brainstem": "brain stem",
    "caudate nucleus": "caudate",
    "csf": "cerebrospinal fluid",
    "gall bladder": "gallbladder",
    "globus pallidus": "pallidum",
    "nucleus accumbens": "accumbens",
    "oesophagus": "esophagus",
    "ventral dc": "ventral diencephalon",
}
#: region: its structures, as the terminology names them
REGIONS: dict[str, tuple[str, ...]] = {
    "Cortex and white matter": ("cerebral cortex", "cerebral white matter"),
    "Ventricles and fluid": ("lateral ventricle", "third ventricle", "fourth ventricle", "cerebrospinal fluid"),
    "Deep grey matter": ("thalamus", "caudate", "putamen", "pallidum", "accumbens", "ventral diencephalon"),
    "Medial temporal lobe": ("hippocampus", "amygdala"),
    "Brain stem and cerebellum": ("brain stem", "cerebellar cortex", "cerebellar white matter"),
}
#: parts have the code of the whole: the temporal horn that of the lateral ventricle
_BY_CODE = {STRUCTURES[name][0]: region for region, names in REGIONS.items() for name in names}


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


ANATOMICAL_STRUCTURE = Code("123037004", "SCT", "Anatomical Structure")
LEFT = Code("7771000", "SCT", "Left")
RIGHT = Code("24028007", "SCT", "Right")


def structure_label(
    value: int, structure: str, side: Code | None = None, plausible_ml: tuple[float, float] | None = None
) -> Label:
    """The label of a structure of :data:`STRUCTURES`.

    Args:
        value: voxel value.
        structure: key of :data:`STRUCTURES`.
        side: :data:`LEFT`, :data:`RIGHT` or None; it goes into the name too.
        plausible_ml: smallest and largest plausible volume in ml.

    Raises:
        KeyError: no such structure.
    """
    code, meaning, color = STRUCTURES[structure]
    name = f"{side.meaning.lower()} {structure}" if side else structure
    return Label(value, name, ANATOMICAL_STRUCTURE, Code(code, "SCT", meaning), side, color, plausible_ml)


def brain_labels() -> tuple[Label, ...]:
    """The 32 structures of a whole brain by rising FreeSurfer value."""
    labels = [structure_label(value, structure) for value, structure in MIDLINE_BRAIN_STRUCTURES]
    for left, right, structure in PAIRED_BRAIN_STRUCTURES:
        labels += [structure_label(left, structure, LEFT), structure_label(right, structure, RIGHT)]
    return tuple(sorted(labels, key=lambda label: label.value))


#: words of a name that say a side; of letters only those that stand alone
SIDES = {"left": LEFT, "lt": LEFT, "lh": LEFT, "l": LEFT, "right": RIGHT, "rt": RIGHT, "rh": RIGHT, "r": RIGHT}


def split_side(name: str) -> tuple[Code | None, str]:
    """Side and rest of a name: (LEFT, "kidney") for "kidney_left", "Left-Kidney" and "kidneyL".

    The rest is in lower case, its words separated by a space. Names with several sides have none.
    """
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [word.lower() for word in re.split(r"[\W_]+", apart) if word]
    sides = {SIDES[word].value for word in words if word in SIDES}
    if len(sides) != 1:
        return None, " ".join(words)
    side = next(SIDES[word] for word in words if word in SIDES)
    return side, " ".join(word for word in words if word not in SIDES)


def known_structure(name: str) -> str | None:
    """The terminology's name of a structure without its side, or None."""
    for spelling in (name, name.removesuffix("s")):
        spelling = ALIASES.get(spelling, spelling)
        if spelling in STRUCTURES:
            return spelling
    return None


def same_structure(first: str, second: str) -> bool:
    """Whether two names mean the same structure of the same side, however they are spelt: "kidney_L", "Left kidney"."""
    (side, structure), (other_side, other) = split_side(first), split_side(second)
    if not structure or not other:
        return first.strip() == second.strip()
    same = (known_structure(structure) or structure) == (known_structure(other) or other)
    return same and (side and side.value) == (other_side and other_side.value)


def region_of(label: Label) -> str | None:
    """The region in which a structure lies, by its SNOMED CT code; None where that is not a part of the brain."""
    return _BY_CODE.get(label.type.value) if label.type.scheme == "SCT" else None
