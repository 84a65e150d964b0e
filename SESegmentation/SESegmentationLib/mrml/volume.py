"""Volume nodes as SimpleITK images, and volumes in time (4-D) frame by frame.

MRML keeps positions in RAS, SimpleITK in LPS: the first two coordinates change their sign. Images are in the volume's
own coordinates, its parent transform left out: anatomy is oriented as it was acquired, and what is found in the volume
gets the same parent transform and so appears where the volume appears.

A sequence holds its frames outside the scene. A sequence browser selects one, and a volume node in the scene shows it;
that node is what the user sees and chooses. Segmentations get a sequence of their own with the same index values, which
the same browser selects from: each frame shows its own segmentation, and edits are kept with the frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _

from ..errors import InputError
from ..geometry import Geometry, triple
from ..io.formats import read_header
from ..io.volume_image import NO_ORIENTATION, RAS_TO_LPS, SHEAR_DEGREES, ShearedError, affines_contradict, shear_degrees
from ..memory import require_memory
from .references import is_companion

#: the same for directions and positions of three numbers
RAS_TO_LPS_3 = RAS_TO_LPS[:3, :3]
#: files whose headers give the positions of their voxels, which are compared with those in Slicer
_CHECKED = (".nii", ".nii.gz", ".hdr", ".img", ".img.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh")
#: bounds of voxel sizes and positions in mm: what lies beyond is no scan, and is not read from scenes either
SMALLEST_SPACING_MM, LARGEST_SPACING_MM, FARTHEST_MM = 1e-6, 1e3, 1e6
#: largest relative difference of two voxel sizes that is taken for rounding
_SAME_SIZE = 0.01


def check_volume_node(node: slicer.vtkMRMLScalarVolumeNode | None) -> None:
    """Refuse a volume that cannot be segmented.

    Values are checked later, where the image is read: this takes no time and can be done at every choice in a panel.

    Raises:
        InputError: none, no longer in its scene, the map of a result, a label map, empty, a single slice, colour or
            vectors, with voxel sizes or a place that no scan has, sheared, or under a transform that is not linear.
    """
    if node is None:
        raise InputError(_("No volume is chosen."), _("Load a volume and choose it as the input."))
    name = node.GetName() or "The volume"
    if node.GetScene() is None:
        raise InputError(
            _("{name} is no longer in the scene.").format(name=name), _("Load it again, or choose another volume.")
        )
    if is_companion(node):
        raise InputError(
            _("{name} is the map of a result, not a scan.").format(name=name),
            _("Choose the volume that was segmented."),
        )
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise InputError(
            _("{name} is a label map, not a scan.").format(name=name),
            _("Choose the scan. If it is one, convert it to a scalar volume in the module Volumes."),
        )
    image = node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None:
        raise InputError(
            _("{name} has no voxels.").format(name=name), _("Load its file again: what was loaded is empty.")
        )
    if min(image.GetDimensions()) < 2:
        raise InputError(_("{name} is a single slice.").format(name=name), _("Choose the whole series or volume."))
    if image.GetNumberOfScalarComponents() != 1:
        raise InputError(
            _("{name} has {count} values in each voxel (colour or vectors).").format(
                name=name, count=image.GetNumberOfScalarComponents()
            ),
            _("Convert it to a scalar volume with the module Vector to Scalar Volume."),
        )
    if not _is_placed(node):
        raise InputError(
            _("No scan has the voxel sizes or the place of {name}: {spacing} mm at {origin} mm.").format(
                name=name, spacing=list(node.GetSpacing()), origin=list(node.GetOrigin())
            ),
            _("Correct its spacing and origin in the module Volumes, or load it again."),
        )
    check_linear_transform(node)
    shear = shear_degrees(_directions_lps(node))
    if shear > SHEAR_DEGREES:
        raise InputError(
            _(
                "The axes of {name} are not perpendicular: they are off by {shear:.1f} degrees (a tilted gantry?)."
            ).format(name=name, shear=shear),
            _("Resample it with the module Resample Scalar/Vector/DWI Volume, then choose the result."),
        )


def _is_placed(node: slicer.vtkMRMLVolumeNode) -> bool:
    """Whether voxel sizes and origin are numbers within the bounds; no comparison with NaN is true."""
    sizes = all(SMALLEST_SPACING_MM <= size <= LARGEST_SPACING_MM for size in node.GetSpacing())
    return sizes and all(abs(position) <= FARTHEST_MM for position in node.GetOrigin())


def check_linear_transform(node: slicer.vtkMRMLTransformableNode) -> None:
    """Refuse a node under a transform that bends space.

    Raises:
        InputError: the transforms between node and world are not all linear.
    """
    transform = node.GetParentTransformNode()
    if transform is not None and not transform.IsTransformToWorldLinear():
        raise InputError(
            _("{node} is under the non-linear transform {transform}.").format(
                node=node.GetName(), transform=transform.GetName()
            ),
            _("Harden the transform in the module Data (right-click on the transform), or move the node out of it."),
        )


def image_from_volume_node(node: slicer.vtkMRMLScalarVolumeNode) -> sitk.Image:
    """The volume as an image, a copy.

    Args:
        node: see :func:`check_volume_node`, which is done first.

    Returns:
        3-D image in LPS with the node's spacing, origin and axes (which may be left-handed).

    Raises:
        InputError: the volume cannot be segmented.
        OutOfMemoryError: the memory is not enough for it.
    """
    return copier_of_volume_node(node)()


def copier_of_volume_node(node: slicer.vtkMRMLScalarVolumeNode) -> Callable[[], sitk.Image]:
    """A function that makes the image of :func:`image_from_volume_node`, whose errors are raised here.

    It needs no MRML but the array of voxels, and may run in another thread: copying the voxels of a whole body into
    memory not used before blocks the window for too long.
    """
    check_volume_node(node)
    data = node.GetImageData()
    # a copy for the image, one on its way to the worker and two there, of which one becomes single precision
    require_memory(data.GetNumberOfPoints() * (3 * data.GetScalarSize() + 8) / 1e9)
    _check_file(node)
    return partial(volume_geometry(node).image, slicer.util.arrayFromVolume(node))


def _check_file(node: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Refuse a volume whose geometry in Slicer differs from that in the file it was loaded from.

    Slicer drops shear and shows the volume straightened; it reads a negative voxel size as a mirror image; it ignores
    units. A volume that was moved or changed since loading is not compared.
    """
    storage = node.GetStorageNode()
    path = Path((storage.GetFileName() if storage else None) or "")
    if not path.name.lower().endswith(_CHECKED) or node.GetModifiedSinceRead():
        return
    try:
        header = read_header(path)
        if header is None or NO_ORIENTATION in header.findings:
            return
        theirs = header.affine
    except ShearedError as error:
        raise InputError(
            _(
                "The axes of {node} are sheared by {shear:.1f} degrees in its file (a tilted "
                "gantry?), which Slicer does not show."
            ).format(node=node.GetName(), shear=error.degrees),
            _("Load the DICOM series that the file was made from, and harden the transform that Slicer puts it under."),
        ) from error
    except (OSError, ImportError):  # moved meanwhile; nibabel is not installed yet
        return
    ours = np.eye(4)
    ours[:3, :3] = _directions_lps(node) * node.GetSpacing()
    ours[:3, 3] = RAS_TO_LPS_3 @ node.GetOrigin()
    last = ours[:3, 2] * (node.GetImageData().GetDimensions()[2] - 1)
    if np.linalg.det(ours) * np.linalg.det(theirs) < 0:  # Slicer reverses the third axis of left-handed files
        theirs = theirs.copy()
        theirs[:3, 2] *= -1
        theirs[:3, 3] -= theirs[:3, 2] * (node.GetImageData().GetDimensions()[2] - 1)
    sizes = [np.linalg.norm(affine[:3, :3], axis=0) for affine in (ours, theirs)]
    apart = ours[:3, 3] - theirs[:3, 3]
    if affines_contradict(ours, theirs) or min(np.abs(apart - last).max(), np.abs(apart + last).max()) < sizes[0].min():
        what = _("turned or mirrored, so that left and right may be exchanged")
    elif np.abs(sizes[0] / sizes[1] - 1).max() > _SAME_SIZE:
        what = _("with voxels of {shown} mm instead of {stated} mm").format(
            shown=sizes[0].round(4).tolist(), stated=sizes[1].round(4).tolist()
        )
    else:
        return
    raise InputError(
        _("Slicer shows {node} differently from what its file says: {what}.").format(node=node.GetName(), what=what),
        _("Correct the header of the file, save it from another program, or load the DICOM series it was made from."),
    )


def volume_geometry(node: slicer.vtkMRMLVolumeNode) -> Geometry:
    """Where a volume's voxels are in its own coordinates, LPS in mm."""
    size = node.GetImageData().GetDimensions()
    origin = triple((RAS_TO_LPS_3 @ node.GetOrigin()).tolist())
    return Geometry(size, node.GetSpacing(), origin, tuple(_directions_lps(node).ravel().tolist()))


def ijk_to_ras(geometry: Geometry) -> vtk.vtkMatrix4x4:
    """The matrix from voxel indices (i, j, k) of an image to RAS in mm."""
    affine = np.eye(4)
    affine[:3, :3] = RAS_TO_LPS_3 @ geometry.axes @ np.diag(geometry.spacing)
    affine[:3, 3] = RAS_TO_LPS_3 @ geometry.origin
    return slicer.util.vtkMatrixFromArray(affine)


def _directions_lps(node: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    """Directions of the voxel axes in LPS, one a column."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASDirectionMatrix(matrix)
    return RAS_TO_LPS_3 @ slicer.util.arrayFromVTKMatrix(matrix)[:3, :3]


@dataclass(frozen=True)
class VolumeSequence:
    """The frames behind a volume node.

    Attributes:
        volume: the node in the scene, which shows the selected frame.
        browser: selects it.
        sequence: holds the frames, numbered from 0.

    Example::

        frames = VolumeSequence.of(volume)
        output = SegmentationSequence.add(frames, "Heart")
        for number in frames.numbers(every=True):
            output.write(number, segment(frames.image(number)), structures)
    """

    volume: slicer.vtkMRMLScalarVolumeNode
    browser: slicer.vtkMRMLSequenceBrowserNode
    sequence: slicer.vtkMRMLSequenceNode

    @classmethod
    def of(cls, volume: slicer.vtkMRMLScalarVolumeNode | None) -> VolumeSequence | None:
        """The frames of a volume; None if it shows no sequence, or one of a single frame."""
        found = find_sequence(volume)
        if found is None or found[1].GetNumberOfDataNodes() < 2:
            return None
        return cls(volume, *found)

    def __len__(self) -> int:
        return self.sequence.GetNumberOfDataNodes()

    @property
    def selected(self) -> int:
        """The number of the frame that the volume node shows."""
        master = self.browser.GetMasterSequenceNode()
        value = master.GetNthIndexValue(max(self.browser.GetSelectedItemNumber(), 0))
        # the browser may follow another sequence with more items: the frame before is shown then
        return max(self.sequence.GetItemNumberFromIndexValue(value, False), 0)

    def numbers(self, every: bool) -> list[int]:
        """Which frames are to be segmented: each, the one on show first; or that one alone."""
        selected = self.selected
        return [selected] + [number for number in range(len(self)) if every and number != selected]

    def index_values(self, every: bool) -> list[str]:
        """Index values of the same frames as :meth:`numbers`: they stay where other frames are added or removed."""
        return [self.sequence.GetNthIndexValue(number) for number in self.numbers(every)]

    def number_of(self, value: str) -> int:
        """The number of the frame with this index value; InputError where it was removed from the sequence."""
        number: int = self.sequence.GetItemNumberFromIndexValue(value, True)
        if number < 0:
            raise InputError(
                _("The frame {value} of {volume} was removed from its sequence.").format(
                    value=value, volume=self.volume.GetName()
                ),
                _("Segment the sequence as it is now."),
            )
        return number

    def node(self, number: int) -> slicer.vtkMRMLScalarVolumeNode:
        """A frame, which is outside the scene; the browser stays where it is.

        Raises:
            InputError: the sequence is no longer in the scene.
        """
        self.check()
        return self.sequence.GetNthDataNode(number)

    def image(self, number: int) -> sitk.Image:
        """A frame as an image.

        Raises:
            InputError: the sequence is no longer in the scene, or the frame cannot be segmented.
        """
        return image_from_volume_node(self.node(number))

    def check(self) -> None:
        """Raise InputError if the sequence is no longer in the scene, or the node that shows it cannot be segmented."""
        check_volume_node(self.volume)
        if self.browser.GetScene() is None or self.sequence.GetScene() is None:
            raise InputError(
                _("The frames of {volume} are no longer in the scene.").format(volume=self.volume.GetName()),
                _("Load the sequence again."),
            )


def find_sequence(
    node: slicer.vtkMRMLNode | None,
) -> tuple[slicer.vtkMRMLSequenceBrowserNode, slicer.vtkMRMLSequenceNode] | None:
    """The browser that selects what a node shows, and the sequence that it selects from."""
    if node is None or node.GetScene() is None:
        return None
    for browser in slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode", node.GetScene()):
        if browser.IsProxyNode(node.GetID()):
            return browser, browser.GetSequenceNode(node)
    return None
