"""The Python modules that the application has and the wheel has not, put where scripted modules import them from."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlparse

import slicer

from . import packages, parameter_node, scripted_module


def publish() -> None:
    """Make ``slicer.i18n``, ``slicer.packaging``, ``SampleData`` and their like importable."""
    if hasattr(slicer, "i18n"):
        return
    _publish("slicer.i18n", tr=lambda text: text, translate=lambda context, text: text, getContext=_context)
    _publish("slicer.ScriptedLoadableModule", **_public(scripted_module))
    _publish("slicer.parameterNodeWrapper", **_public(parameter_node))
    _publish("slicer.packaging", **_public(packages))
    _publish("PyTorchUtils", PyTorchUtilsLogic=packages.PyTorchUtilsLogic)
    _publish("SampleData", SampleDataLogic=SampleDataLogic)


def _publish(name: str, **contents: Any) -> None:
    module = sys.modules[name] = types.ModuleType(name)
    vars(module).update(contents)
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def _public(module: types.ModuleType) -> dict[str, Any]:
    return {name: getattr(module, name) for name in module.__all__}


def _context(source_file: str) -> str:
    return os.path.basename(source_file).removesuffix(".py")


@dataclass
class SampleDataSource:
    """One entry of the Sample Data module."""

    sampleName: str
    uris: Sequence[str] = ()
    fileNames: Sequence[str] = ()
    nodeNames: Sequence[str | None] = ()
    thumbnailFileName: str | None = None
    loadFileType: Sequence[str] = ()
    loadFileProperties: dict[str, Any] = field(default_factory=dict)
    checksums: Sequence[str | None] = ()
    customDownloader: Any = None


class SampleDataLogic:
    """Logic of the Sample Data module: registered samples, and loading those that lie on this computer."""

    @staticmethod
    def registerCustomSampleDataSource(
        category: str = "Custom",
        sampleName: str | None = None,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        customDownloader: Any = None,
        thumbnailFileName: str | None = None,
        loadFileType: Any = "VolumeFile",
        loadFiles: Any = None,
        loadFileProperties: dict[str, Any] | None = None,
        checksums: Any = None,
    ) -> None:
        """Register a sample: one file, or lists of equal length."""
        columns = [_as_list(column) for column in (uris, fileNames, nodeNames, checksums)]
        if isinstance(uris, (list, tuple)) and {len(column) for column in columns if column != [None]} - {len(uris)}:
            raise ValueError("All fields of sample data source must have the same length")
        if thumbnailFileName and not os.path.isfile(thumbnailFileName):
            raise ValueError(f"there is no thumbnail {thumbnailFileName}")  # the application shows an empty button
        source = SampleDataSource(
            sampleName,
            *columns[:3],
            thumbnailFileName,
            _as_list(loadFileType),
            loadFileProperties or {},
            columns[3],
            customDownloader,
        )
        sources = SampleDataLogic.sampleDataSourcesByCategory().setdefault(category, [])
        if source not in sources:
            sources.append(source)

    @staticmethod
    def sampleDataSourcesByCategory(category: str | None = None) -> Any:
        """All sources by category, or those of one."""
        if not hasattr(slicer.modules, "sampleDataSources"):
            slicer.modules.sampleDataSources = {}
        sources = slicer.modules.sampleDataSources
        return sources if category is None else sources.get(category, [])

    def downloadSample(self, sampleName: str) -> slicer.vtkMRMLNode:
        """Load a sample by its name; only ``file:`` addresses work here. Returns the (first) node."""
        for sources in self.sampleDataSourcesByCategory().values():
            for source in sources:
                if source.sampleName == sampleName:
                    return self.downloadFromSource(source)[0]
        raise RuntimeError(f"no sample data source {sampleName}")

    def downloadFromSource(self, source: SampleDataSource) -> list[slicer.vtkMRMLNode]:
        """Copy the files of a source into the cache, check them and load them."""
        nodes = []
        for uri, name, node_name, checksum in zip(
            source.uris, source.fileNames, source.nodeNames, source.checksums, strict=True
        ):
            address = urlparse(uri)
            if address.scheme != "file":
                raise RuntimeError(f"the stand-in loads no {address.scheme}: addresses")
            path = os.path.join(tempfile.mkdtemp(dir=slicer.app.temporaryPath), name)
            shutil.copy(unquote(address.path), path)
            if checksum:
                algorithm, digest = slicer.util.extractAlgoAndDigest(checksum)
                if slicer.util.computeChecksum(algorithm, path) != digest:
                    raise ValueError(f"Checksum of {name} does not match")
            properties = {"fileName": path, "name": node_name, **source.loadFileProperties}
            nodes.append(slicer.util.loadNodeFromFile(path, source.loadFileType[0], properties))
        return nodes


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
