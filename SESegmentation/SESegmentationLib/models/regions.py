"""Regions of the brain, under which long lists of structures are divided."""

from __future__ import annotations

from .labels import STRUCTURES, Label

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


def region_of(label: Label) -> str | None:
    """The region in which a structure lies, by its SNOMED CT code; None where that is no part of the brain."""
    return _BY_CODE.get(label.type.value) if label.type.scheme == "SCT" else None
