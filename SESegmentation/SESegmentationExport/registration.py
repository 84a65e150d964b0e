"""Where the anatomy of one scan lies in another one of the same person: rigid registration by SimpleITK."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from SESegmentationLib.errors import InputError
from SESegmentationLib.geometry import Geometry, covering
from SESegmentationLib.io.volume_image import voxels_of

#: voxel size at which images are registered, in mm
_SPACING = 2.0
#: margin of tissue around the segmentation that is registered, in mm
_AROUND = 10.0
#: least Dice of the two segmentations as a whole; below it the registration has failed
LEAST_OVERLAP = 0.7
#: fewest structures whose centres are enough to estimate a rotation, and to do without the images
_FEWEST, _MANY = 4, 10
_SEED = 11


def register(
    earlier: sitk.Image, earlier_labels: sitk.Image, later: sitk.Image, later_labels: sitk.Image
) -> sitk.Transform:
    """The rigid transform from points of the earlier scan to the same anatomy in the later one, LPS in mm.

    It aligns the centres of the structures that both segmentations have; if these are few, it then maximises the mutual
    information of the images around the segmentation, whatever their contrasts.

    Args:
        earlier, later: volumes on any grids.
        earlier_labels, later_labels: their segmentations with the same values; each may lie on a grid of its own.

    Raises:
        InputError: no structure is in both, or the segmentations do not overlap after registration.
    """
    first, structures = _by_centres(earlier_labels, later_labels)
    tried = [first] if structures >= _MANY else [first, _refined(earlier, earlier_labels, later, first)]
    dice, best = max(
        ((overlap(earlier_labels, later_labels, transform), transform) for transform in tried),
        key=lambda entry: entry[0],
    )
    if dice < LEAST_OVERLAP:
        raise InputError(
            f"The two scans could not be aligned: their segmentations overlap with a Dice of {dice:.2f} only.",
            "Check that both scans show the same part of the same person, and that both segmentations are good.",
        )
    return best


def align(
    earlier: sitk.Image, earlier_labels: sitk.Image, later: sitk.Image, later_labels: sitk.Image
) -> tuple[sitk.Image, sitk.Image]:
    """The later scan and its segmentation, resampled to the grid of the earlier segmentation.

    Arguments and errors are those of :func:`register`; outside of the later scan the image has its lowest intensity.
    """
    transform = register(earlier, earlier_labels, later, later_labels)
    grid = Geometry.of(earlier_labels)
    darkest = float(voxels_of(later).min())
    image = sitk.Resample(
        later, grid.size, transform, sitk.sitkLinear, grid.origin, grid.spacing, grid.direction, darkest
    )
    return image, transferred(later_labels, grid, transform)


def transferred(labels: sitk.Image, grid: Geometry, transform: sitk.Transform) -> sitk.Image:
    """A label map, through a transform from points of ``grid`` to its own, on that grid."""
    return sitk.Resample(
        labels, grid.size, transform, sitk.sitkNearestNeighbor, grid.origin, grid.spacing, grid.direction, 0
    )


def overlap(earlier: sitk.Image, later: sitk.Image, transform: sitk.Transform) -> float:
    """Dice of the two segmentations as a whole (all labels as one), on the grid of the earlier one."""
    first = voxels_of(earlier) > 0
    second = voxels_of(transferred(later, Geometry.of(earlier), transform)) > 0
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 0.0


def _by_centres(earlier: sitk.Image, later: sitk.Image) -> tuple[sitk.VersorRigid3DTransform, int]:
    """The transform by the centres of common structures, and how many these are."""
    centres = [_centres(labels) for labels in (earlier, later)]
    common = [value for value in centres[0] if value in centres[1]]
    if not common:
        raise InputError(
            "The two segmentations have no structure in common.", "Compare scans of the same part of the same person."
        )
    fixed, moving = (np.array([found[value] for value in common]) for found in centres)
    start = sitk.VersorRigid3DTransform()
    start.SetCenter(fixed.mean(0).tolist())
    start.SetTranslation((moving.mean(0) - fixed.mean(0)).tolist())
    if len(common) < _FEWEST:
        return start, len(common)
    fitted = sitk.LandmarkBasedTransformInitializer(start, fixed.ravel().tolist(), moving.ravel().tolist())
    return sitk.VersorRigid3DTransform(fitted), len(common)


def _centres(labels: sitk.Image) -> dict[int, tuple[float, ...]]:
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.ComputePerimeterOff()
    shapes.Execute(sitk.Cast(labels, sitk.sitkUInt16))
    return {value: shapes.GetCentroid(value) for value in shapes.GetLabels()}


def _refined(
    earlier: sitk.Image, labels: sitk.Image, later: sitk.Image, start: sitk.VersorRigid3DTransform
) -> sitk.VersorRigid3DTransform:
    """The transform refined by the images; ``start`` if registration fails."""
    grid = covering(Geometry.of(labels), (_SPACING,) * 3, labels.GetDirection())
    fixed = grid.resample(sitk.Cast(earlier, sitk.sitkFloat32), sitk.sitkLinear)
    inside = grid.resample(sitk.Cast(labels > 0, sitk.sitkUInt8), sitk.sitkNearestNeighbor)
    near = sitk.SignedMaurerDistanceMap(inside, squaredDistance=False, useImageSpacing=True) < _AROUND
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricFixedMask(near)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.2, _SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 0.01, 100, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([3, 1.5])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    refined = sitk.VersorRigid3DTransform(start)
    method.SetInitialTransform(refined, inPlace=True)
    try:
        method.Execute(fixed, sitk.Cast(later, sitk.sitkFloat32))
    except RuntimeError:  # raised by ITK if images do not overlap or are uniform
        return start
    return refined
