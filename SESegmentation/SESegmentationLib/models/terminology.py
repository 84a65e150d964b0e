"""Structures of the head and trunk with their SNOMED CT codes and colours, from which models take their labels.

The codes are those of Slicer's own terminology; where it has none for a part (temporal horn, cerebellar cortex), the
whole's code stands and the part goes into the name. Values of brain structures are FreeSurfer's.
"""

from __future__ import annotations

from .labels import Code, Label

ANATOMICAL_STRUCTURE = Code("123037004", "SCT", "Anatomical Structure")
LEFT = Code("7771000", "SCT", "Left")
RIGHT = Code("24028007", "SCT", "Right")

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

#: FreeSurfer's value left of the body, right of it, name
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
