"""The module SESegmentation of 3D Slicer: a thin shell over SESegmentationLib. No torch is imported here.

From a script::

    logic = SESegmentationLogic()
    segmentationNode = logic.segment(volumeNode, "hippocampus-t1")
    logic.close()
"""

import importlib.util
import sys
import time
from pathlib import Path
from typing import Annotated

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

#: volumes to try the module with: name, name of the node, SHA-256 of the file
SAMPLES = (
    # a real T1 head of the QuickNATv2 repository (MIT licence), cut to the head
    ("SESegmentationHead", "T1Head", "bcae7b5939c3fa9a4e874bd2f25bd9acc05d5228d2e9deb8cb540c37fc4989bd"),
    # a crop drawn by Testing/drawn_hippocampus.py, its values rounded to whole numbers
    (
        "SESegmentationHippocampus",
        "DrawnHippocampus",
        "23caecd184aa3af297e937c7db9edd4cb8632617e742b7a65159df7d5657cb61",
    ),
)
#: Slicer 5.8 has Python 3.9, which the library does not support
MINIMUM_SLICER = (5, 10)
#: nodes that the panel shows
NODE_CLASSES = ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLMarkupsROINode")


def versionProblem():
    """The message to show if Slicer is too old; empty if it is not."""
    major, minor = slicer.app.majorVersion, slicer.app.minorVersion
    if (major, minor) >= MINIMUM_SLICER:
        return ""
    return _("SE Segmentation needs Slicer 5.10 or newer; this is Slicer {version}.").format(version=f"{major}.{minor}")


class SESegmentation(ScriptedLoadableModule):
    """The module as Slicer lists it: title, category, help text, sample data."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("SE Segmentation")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["Markups", "SegmentEditor", "Segmentations", "Sequences", "SubjectHierarchy", "Tables"]
        parent.contributors = ["The SESegmentation contributors"]
        parent.helpText = _(
            "Finds anatomical structures in a volume with neural networks that recalibrate their features by squeeze "
            "and excitation. Choose a volume and a model, and click Segment. Everything is computed on this computer, "
            "unless you choose a server. "
            "For research; not a medical device."
        )
        parent.acknowledgementText = _(
            "The networks are those of A. G. Roy, N. Navab and C. Wachinger, Recalibrating Fully Convolutional "
            "Networks with Spatial and Channel Squeeze and Excitation Blocks, IEEE TMI 38(2), 2019, "
            "doi:10.1109/TMI.2018.2867261. Each model names in its card the data that it was trained on."
        )
        slicer.app.connect("startupCompleted()", self.registerSampleData)

    def registerSampleData(self):
        """Offer volumes to try the module with. They are part of the package: no internet is needed."""
        import SampleData

        for name, node_name, sha256 in SAMPLES:
            SampleData.SampleDataLogic.registerCustomSampleDataSource(
                category="SESegmentation",
                sampleName=name,
                uris=Path(self.resourcePath(f"SampleData/{name}.nii.gz")).as_uri(),
                fileNames=f"{name}.nii.gz",
                nodeNames=node_name,
                thumbnailFileName=self.resourcePath(f"SampleData/{name}.png"),
                checksums=f"SHA256:{sha256}",
            )


@parameterNodeWrapper
class SESegmentationParameterNode:
    """The choices of one scene, saved with it; see SESegmentationLib.panel.choices.Choices."""

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    everyFrame: bool = False
    model: str = ""
    adaptedFrom: slicer.vtkMRMLSegmentationNode
    region: slicer.vtkMRMLMarkupsROINode
    outputSegmentation: slicer.vtkMRMLSegmentationNode
    resultSegmentation: slicer.vtkMRMLSegmentationNode
    device: Annotated[str, Choice(["auto", "cpu", "cuda", "mps"])] = "auto"
    fast: bool = False
    lowMemory: bool = False
    recalibrate: bool = False
    keepWarm: bool = True
    opacity: Annotated[float, WithinRange(0, 1)] = 1.0


class SESegmentationWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Puts the panel into Slicer's window, and forwards events of the scene to it."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None
        self._parameterNode = None
        self._guiTag = None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        problem = versionProblem()
        if problem:
            label = qt.QLabel(problem)
            label.wordWrap = True
            self.layout.addWidget(label)
            self.layout.addStretch(1)
            return
        root = slicer.util.loadUI(self.resourcePath("UI/SESegmentation.ui"))
        self.layout.addWidget(root)
        self.ui = slicer.util.childWidgetVariables(root)
        root.setMRMLScene(slicer.mrmlScene)
        self.logic = SESegmentationLogic()
        self.panel = self.createPanel()
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        for event in (scene.StartImportEvent, scene.StartRestoreEvent):
            self.addObserver(scene, event, self.onSceneStartReading)
        for event in (scene.EndImportEvent, scene.EndRestoreEvent):
            self.addObserver(scene, event, self.onSceneEndReading)
        self.addObserver(scene, scene.EndBatchProcessEvent, self.onBatchEnded)
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent):
            self.addObserver(scene, event, self.onNodesChanged)
        self.useScene()
        self.panel.on_scene_read(self.logic.resetChoices)

    def createPanel(self):
        from SESegmentationLib.panel import (
            DependencyInstaller,
            DoctorProcess,
            FileDialogs,
            InstalledModels,
            Panel,
            UserSettings,
        )

        settings = UserSettings(slicer.app.userSettings())
        installer = DependencyInstaller(
            self.resourcePath("requirements.txt"), lambda: self.panel.computer.wheels_folder()
        )
        return Panel(
            self.ui, self.logic.createSegmenter, InstalledModels(), installer, DoctorProcess(), settings, FileDialogs()
        )

    def enter(self):
        if self.panel is None:  # Slicer is too old
            return
        self.useScene()
        self.panel.on_entered()

    def cleanup(self):
        if self.panel is None:  # setup() has failed, or Slicer is too old
            return
        self.setParameterNode(None)
        self.removeObservers()
        self.panel.close()
        self.logic.close()
        if getattr(sys.modules.get(self.moduleName), type(self).__name__, None) is not type(self):  # it is reloaded
            # all packages beside it, which are named after it: one that stayed would raise the library's old errors
            for name in [name for name in sys.modules if name.startswith(self.moduleName) and name != self.moduleName]:
                del sys.modules[name]

    def useScene(self):
        """Show and change the choices of the scene, but not while it is being read or closed.

        A wrapper caches node references: one read before the scene is complete would stay None, or be another node.
        """
        scene = slicer.mrmlScene
        if scene.IsImporting() or scene.IsRestoring() or scene.IsClosing():
            return
        shown = self._parameterNode
        if shown is None or not scene.IsNodePresent(shown.parameterNode):
            self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, parameterNode):
        """Show and change these choices; None if there is no scene. The panel goes on working while hidden."""
        self.disconnectParameterNode()
        self._parameterNode = parameterNode
        if parameterNode is not None:
            widgets = vars(self.ui).values()
            named = {widget.property("SlicerParameterName"): widget for widget in widgets}
            # connectGui() does the same, but returns the tag for disconnecting only in some versions
            self._guiTag = parameterNode.connectParametersToGui({n: w for n, w in named.items() if n})
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self.onChoicesModified)
        self.panel.set_choices(parameterNode)

    def disconnectParameterNode(self):
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._guiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onChoicesModified)
        self._parameterNode = None

    def onChoicesModified(self, caller=None, event=None):
        self.panel.refresh()

    def onSceneStartClose(self, caller, event):
        self.setParameterNode(None)
        self.panel.on_scene_closing()

    def onSceneEndClose(self, caller, event):
        self.useScene()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodesChanged(self, caller, event, node):
        if any(node.IsA(name) for name in NODE_CLASSES) and not caller.IsBatchProcessing():
            self.panel.on_nodes_changed()

    def onBatchEnded(self, caller, event):
        self.panel.on_nodes_changed()

    def onSceneStartReading(self, caller, event):
        self.logic.resetChoices.clear()
        self.disconnectParameterNode()
        self.panel.pause()

    def onSceneEndReading(self, caller, event):
        qt.QTimer.singleShot(0, self.onSceneRead)  # the selectors list the new nodes only then

    def onSceneRead(self):
        scene = slicer.mrmlScene
        if self.hasObserver(scene, scene.EndImportEvent, self.onSceneEndReading):  # otherwise cleaned up meanwhile
            self.useScene()
            self.panel.on_scene_read(self.logic.resetChoices)


class SESegmentationLogic(ScriptedLoadableModuleLogic):
    """Segments without the panel, for scripts. One worker process serves all calls; :meth:`close` ends it."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self._segmenter = None
        #: names of parameters in scenes that were read whose values cannot be used
        self.resetChoices = []

    def getParameterNode(self):
        from SESegmentationLib.panel.choices import reset_choices, unusable_choices

        node = super().getParameterNode()
        wrong = unusable_choices(node)
        if wrong:
            self.resetChoices += wrong
            reset_choices(node, wrong)
        if not node.HasObserver(vtk.vtkCommand.ModifiedEvent):
            # VTK calls last what observes first: here a wrapper would read the first parameter after it was shown
            node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: None)
        return SESegmentationParameterNode(node)

    def createSegmenter(self):
        """The segmenter: a worker process on this computer, started by its first job."""
        from SESegmentationLib.client.local import LocalSegmenter

        return LocalSegmenter()

    def segment(
        self,
        volumeNode,
        modelName,
        everyFrame=False,
        region=None,
        output=None,
        device="auto",
        fast=False,
        lowMemory=False,
        progress=None,
        acceptLicence=False,
        adaptedFrom=None,
    ):
        """Segment a volume and wait for it; torch must be installed.

        Args:
            volumeNode: scalar volume, under a linear transform or none.
            modelName: name of an installed model, or folder of one.
            everyFrame: all frames of the sequence that volumeNode shows; otherwise the one on show.
            region: look only inside this markups ROI.
            output: segmentation to write into, sparing segments marked completed; None for a new one.
            device: "auto", "cpu", "cuda" or "mps".
            fast: fewer views.
            lowMemory: smaller batches.
            progress: called with phase, fraction (0 to 1) and seconds left (None while unknown); may raise to cancel.
            acceptLicence: you accept the model's terms; needed where these are not free and were not accepted before.
            adaptedFrom: use the network that was recalibrated to this patient and comes with this segmentation.

        Returns:
            The segmentation node.

        Raises:
            SESegmentationLib.errors.SegmentationError: with a cause and a remedy; the scene is as it was.
            RuntimeError: Slicer is too old.
        """
        if versionProblem():
            raise RuntimeError(versionProblem())
        from SESegmentationLib.models import find_model
        from SESegmentationLib.mrml import require_adapted_parameters
        from SESegmentationLib.panel import SegmentRequest, UserSettings, segment_and_wait

        package = find_model(modelName)
        if not acceptLicence:
            UserSettings(slicer.app.userSettings()).require_accepted(package.card)
        adapted = require_adapted_parameters(adaptedFrom) if adaptedFrom is not None else None
        request = SegmentRequest(volumeNode, package, everyFrame, region, output, device, fast, lowMemory, adapted)
        if self._segmenter is None:
            self._segmenter = self.createSegmenter()
        return segment_and_wait(self._segmenter, request, progress)

    def close(self):
        """End the worker process."""
        if self._segmenter is not None:
            self._segmenter.close()
            self._segmenter = None


class SESegmentationTest(ScriptedLoadableModuleTest):
    """Segments the sample in the application, by a script and by clicks."""

    def setUp(self):
        if versionProblem():
            self.skipTest(versionProblem())
        if importlib.util.find_spec("torch") is None:
            self.skipTest("torch is not installed")
        slicer.mrmlScene.Clear()

    def runTest(self):
        for test in (self.test_script, self.test_panel):
            self.setUp()
            test()
        self.delayDisplay("Tests passed")

    def test_script(self):
        volume, package = self._sample(), self._package()
        reported = []
        logic = SESegmentationLogic()
        node = logic.segment(volume, package.card.name, progress=lambda *progress: reported.append(progress[1]))
        logic.close()
        self.assertEqual(reported, sorted(reported))
        self.assertGreater(len(reported), 2)
        self._check(node, volume, package)

    def test_panel(self):
        volume, package = self._sample(), self._package()
        widget = slicer.modules.sesegmentation.widgetRepresentation().self()
        widget.enter()
        parameters = widget.logic.getParameterNode()
        parameters.inputVolume, parameters.model, parameters.fast = volume, package.card.name, True
        widget.ui.segmentButton.click()
        self.assertTrue(widget.panel.run.running, widget.panel.messages.shown)
        deadline = time.monotonic() + 300
        while widget.panel.run.running and time.monotonic() < deadline:
            slicer.app.processEvents()
            time.sleep(0.01)
        self.assertEqual(widget.panel.messages.shown, [])
        self._check(parameters.resultSegmentation, volume, package)
        self.assertEqual(widget.ui.structureTable.rowCount, len(package.card.labels))

    def _sample(self):
        import SampleData

        return SampleData.SampleDataLogic().downloadSample("SESegmentationHippocampus")

    def _package(self):
        from SESegmentationLib.models import list_models

        packages = {package.card.name: package for package in list_models()}
        return packages.get("hippocampus-t1") or next(iter(packages.values()))

    def _check(self, node, volume, package):
        """Named segments on the volume's grid, of a plausible size where the model is known."""
        segmentation = node.GetSegmentation()
        names = [segmentation.GetNthSegment(i).GetName() for i in range(segmentation.GetNumberOfSegments())]
        self.assertEqual(names, [label.name for label in package.card.labels])
        role = node.GetReferenceImageGeometryReferenceRole()
        self.assertEqual(node.GetNodeReferenceID(role), volume.GetID())
        if package.card.name == "hippocampus-t1":
            for identifier in segmentation.GetSegmentIDs():
                voxels = slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume).sum()
                self.assertTrue(300 < voxels < 4000, f"{identifier}: {voxels} mm3")
