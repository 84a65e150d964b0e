"""How a brain model bears the contrasts, slice thicknesses and times of real scans. Run by ``make bench-contrasts``.

Three questions, by the scans in ``../shared/data``:

- a labelled T1 head: Dice and volume against FreeSurfer's labels;
- one patient with registered T1, T1 with contrast agent, T2 and FLAIR: Dice against the model's own result on the T1;
- one patient's clinical T1, T2 and FLAIR of 3 mm slices at two times, which no model learnt from: volumes between
  contrasts and between times; Dice of T2 and FLAIR against the T1 of the same day, rigidly registered. On the model's
  grid, as the command line and the panel give the result of thick slices.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from SESegmentationExport.registration import register, transferred
from SESegmentationLib.geometry import Geometry
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.io.reading import read_label_volume, read_volume
from SESegmentationLib.models import find_model
from SESegmentationLib.networks.losses import overlap_and_size
from SESegmentationLib.result import Grid, SegmentOptions
from SESegmentationTraining.accuracy import fold_parcels

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
#: what the model calls cerebrospinal fluid is all fluid round the brain, FreeSurfer's label of that name is not
APART = 24
#: structures of at least this volume are compared between contrasts and times
LEAST_ML = 3.0


def dice(first: sitk.Image, second: sitk.Image, values: list[int]) -> dict[int, float]:
    """Dice of each label value."""
    one, other = (sitk.GetArrayFromImage(labels).astype(np.int32) for labels in (first, second))
    other[~np.isin(other, values)] = 0  # FreeSurfer has more labels
    overlap, size = overlap_and_size(torch.from_numpy(one), torch.from_numpy(other), max(values) + 1)
    return {value: 2 * int(overlap[value]) / int(size[value]) if size[value] else 1.0 for value in values}


class Bench:
    """Results of one model by file, each segmented once.

    Args:
        model: name or folder.
        fast: with one view only.
        kept: folder that the label maps are written to; None for none.
    """

    def __init__(self, model: str, fast: bool, kept: Path | None) -> None:
        self.engine = Engine(find_model(model), device="cpu")
        self.fast = fast
        self.kept = kept
        self.names = {label.value: label.name for label in self.engine.card.labels}
        self.values = [value for value in self.names if value != APART]

    def segment(self, path: Path, grid: Grid = "input") -> sitk.Image:
        """Label map of a volume."""
        labels = self.engine.segment(read_volume(path, None), SegmentOptions(fast=self.fast, grid=grid)).labels
        if self.kept:
            self.kept.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(labels, str(self.kept / path.name))
        return labels

    def volumes(self, labels: sitk.Image) -> dict[int, float]:
        """Ml of each structure."""
        voxel = float(np.prod(labels.GetSpacing())) / 1000
        counts = np.bincount(sitk.GetArrayFromImage(labels).ravel(), minlength=256)
        return {value: float(counts[value]) * voxel for value in self.values}

    def labelled(self) -> dict:
        """Dice and relative volume on the labelled T1 head."""
        ours = self.segment(DATA / "volumes" / "t1-brain-stripped.nii.gz")
        theirs = fold_parcels(read_label_volume(DATA / "volumes" / "t1-brain-stripped-aparc2009s+aseg.nii.gz", None))
        scores, volumes, true = dice(ours, theirs, self.values), self.volumes(ours), self.volumes(theirs)
        print(f"labelled T1 head: mean Dice {np.mean(list(scores.values())):.4f}, least {min(scores.values()):.3f}")
        for value in self.values:
            print(f"  {self.names[value]:36} {scores[value]:.3f}  volume {volumes[value] / true[value]:.2f}")
        return {"mean": float(np.mean(list(scores.values()))), "dice": scores}

    def registered(self) -> dict:
        """Agreement of the contrasts of one patient with the T1."""
        folder = DATA / "ms-contrasts" / "registered-1mm"
        reference = self.segment(folder / "p19-T1_0000.nii.gz")
        found = {}
        for contrast in ("T1POST", "T2", "FLAIR"):
            scores = dice(self.segment(folder / f"p19-{contrast}_0000.nii.gz"), reference, self.values)
            found[contrast] = float(np.mean(list(scores.values())))
            worst = sorted(scores, key=scores.get)[:6]
            print(
                f"{contrast} against T1: mean Dice {found[contrast]:.4f}; worst "
                + ", ".join(f"{self.names[v]} {scores[v]:.2f}" for v in worst)
            )
        return found

    def clinical(self) -> dict:
        """Volumes of one patient between contrasts and between times, structures of at least 3 ml."""
        folder = DATA / "ms-contrasts" / "clinical"
        paths = {
            (contrast, study): folder / f"p12-study{study}-{contrast}_0000.nii.gz"
            for contrast in ("T1W", "T2W", "FLAIR")
            for study in (1, 2)
        }
        labels = {scan: self.segment(path, "model") for scan, path in paths.items()}
        volumes = {scan: self.volumes(found) for scan, found in labels.items()}
        lost = {str(key): [self.names[v] for v in self.values if found[v] == 0] for key, found in volumes.items()}
        large = [value for value in self.values if volumes["T1W", 1][value] >= LEAST_ML]

        def apart(first: tuple, second: tuple) -> dict[int, float]:
            return {v: volumes[second][v] / volumes[first][v] - 1 for v in large}

        result = {"lost": {key: names for key, names in lost.items() if names}}
        pairs = [(("T1W", s), (c, s)) for s in (1, 2) for c in ("T2W", "FLAIR")]
        pairs += [((c, 1), (c, 2)) for c in ("T1W", "T2W", "FLAIR")]
        for first, second in pairs:
            changes = apart(first, second)
            name = f"{first[0]} {first[1]} to {second[0]} {second[1]}"
            result[name] = float(np.mean(np.abs(list(changes.values()))))
            worst = sorted(changes, key=lambda v: -abs(changes[v]))[:4]
            print(
                f"{name}: volumes differ by {result[name]:.1%} on average; most "
                + ", ".join(f"{self.names[v]} {changes[v]:+.0%}" for v in worst)
            )
        print("structures lost:", result["lost"] or "none")
        for contrast, study in list(paths)[2:]:
            scans = [read_volume(paths[other, study], None) for other in ("T1W", contrast)]
            first, second = labels["T1W", study], labels[contrast, study]
            transform = register(scans[0], first, scans[1], second)
            scores = dice(transferred(second, Geometry.of(first), transform), first, self.values)
            name = f"Dice of {contrast} {study} against T1W {study}"
            result[name] = float(np.mean(list(scores.values())))
            worst = sorted(scores, key=scores.get)[:4]
            print(f"{name}: {result[name]:.4f}; worst " + ", ".join(f"{self.names[v]} {scores[v]:.2f}" for v in worst))
        return result


def main() -> None:
    """Entry of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="brain-mr", help="name or folder")
    parser.add_argument("--fast", action="store_true", help="with one view only")
    parser.add_argument("--only", choices=("labelled", "registered", "clinical"), action="append")
    parser.add_argument("--labels", type=Path, help="folder to keep the label maps in")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    chosen = parser.parse_args()
    bench = Bench(chosen.model, chosen.fast, chosen.labels)
    figures = {name: getattr(bench, name)() for name in chosen.only or ("labelled", "registered", "clinical")}
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
