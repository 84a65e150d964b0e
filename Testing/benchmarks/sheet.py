"""How fluid the sheet of a large batch is: 1,000 synthetic scans in headless Chromium.

``make bench-sheet`` or ``python Testing/benchmarks/sheet.py``. Each scan has 32 structures and a picture of its own of
the size of real ones. ``--picture FILE.jpg --page sheet.html`` takes a picture of a page instead.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from browser import NoBrowserError, chromium
from SESegmentationExport.sheet import PIXELS, page

WINDOW = {"width": 1500, "height": 900}
#: lets a page draw what has changed: the callback of the frame after the next
_DRAWN = "await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));"
#: runs down the page, 300 pixels a frame, and gives the ms between frames
_SCROLL = """async (frames) => {
  const times = [];
  for (let i = 0; i <= frames; i++) {
    times.push(await new Promise(requestAnimationFrame));
    scrollBy({ top: 300, behavior: "instant" });
  }
  return times.slice(1).map((time, i) => time - times[i]);
}"""


def synthetic_scans(count: int, structures: int = 32, seed: int = 1) -> list[dict[str, Any]]:
    """Scans as a page holds them, every one with other volumes and another picture."""
    random = np.random.default_rng(seed)
    typical = 10 ** random.uniform(-0.5, 2.5, structures)
    scans = []
    for number in range(count):
        noise = random.normal(0, 45, (PIXELS, 3 * PIXELS)).clip(-128, 127) + 128
        picture = Image.fromarray(noise.astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.6)).convert("RGB")
        content = io.BytesIO()
        picture.save(content, format="WebP", quality=70)
        volumes = (
            typical * random.normal(1, 0.1, structures).clip(0.3) * np.where(random.random(structures) < 0.005, 2, 1)
        )
        scans.append(
            {
                "name": f"sub-{number:04d}_T1w",
                "place": f"{number:064x}",
                "sha256": f"{number:064x}",
                "date": "2026-01-01T00:00:00+00:00",
                "model": {"name": "synthetic", "title": "Synthetic", "version": "1.0.0", "weights_sha256": "0" * 64},
                "structures": [
                    {
                        "name": f"left structure {index}",
                        "color": f"#{(index * 0x3B5F7) % 0x1000000:06x}",
                        "voxels": 1,
                        "volume_ml": round(float(ml), 4),
                        "confidence": 0.9,
                        "expected_dice": round(float(random.uniform(0.5, 0.95)), 4),
                    }
                    for index, ml in enumerate(volumes)
                ],
                "findings": [{"message": "Thick slices.", "consequence": "Small structures are less sure."}]
                * (number % 3),
                "picture": base64.b64encode(content.getvalue()).decode("ascii"),
                "error": None,
                "mark": None,
            }
        )
    return scans


def measure(path: Path, frames: int) -> dict[str, float]:
    """Times in ms of a page in the browser."""
    with chromium() as browser:
        tab = browser.new_page(viewport=WINDOW)
        begin = time.perf_counter()
        tab.goto(path.as_uri())
        tab.evaluate(f"async () => {{ {_DRAWN} }}")
        loaded = 1000 * (time.perf_counter() - begin)
        intervals = tab.evaluate(_SCROLL, frames)
        tab.evaluate("scrollTo(0, 0)")

        def took(action: str) -> float:
            script = f"async () => {{ const t = performance.now(); {action}; {_DRAWN} return performance.now() - t; }}"
            return tab.evaluate(script)

        choose = "const s = document.getElementById('sort'); s.value = '{}'; s.dispatchEvent(new Event('change'))"
        press = "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'p', bubbles: true}))"
        sorting = [took(choose.format(by)) for by in ("name", "outliers", "order")]
        marking = [took(press) for _ in range(20)]
        pictures = tab.locator(".scan > img[src]").count()
    return {
        "load_ms": round(loaded),
        "frame_median_ms": round(statistics.median(intervals), 1),
        "frame_95th_ms": round(float(np.percentile(intervals, 95)), 1),
        "frame_longest_ms": round(max(intervals), 1),
        "sort_longest_ms": round(max(sorting)),
        "mark_median_ms": round(statistics.median(marking), 1),
        "mark_longest_ms": round(max(marking), 1),
        "pictures_decoded": pictures,
    }


def take_picture(path: Path, picture: Path, height: int) -> None:
    """Take a picture of the upper part of a page."""
    with chromium() as browser:
        tab = browser.new_page(viewport=WINDOW | {"height": height})
        tab.goto(path.as_uri())
        tab.locator(".scan > img[src]").first.wait_for()
        tab.evaluate("() => Promise.all([...document.images].filter(image => image.src).map(image => image.decode()))")
        tab.screenshot(path=picture, **({} if picture.suffix == ".png" else {"quality": 80}))


def main() -> None:
    """Print the figures, or take a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=600, help="that are scrolled through")
    parser.add_argument("--page", type=Path, help="take this page instead of synthetic scans")
    parser.add_argument("--picture", type=Path, help="take a picture of the page, as PNG or JPEG, and measure nothing")
    parser.add_argument("--height", type=int, default=900, help="of the picture, in pixels")
    chosen = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = chosen.page and chosen.page.absolute()
            if not path:
                path = Path(folder) / "sheet.html"
                scans = synthetic_scans(chosen.scans)
                begin = time.perf_counter()
                path.write_text(page(scans), encoding="utf-8")
                print(f"{chosen.scans} scans written in {time.perf_counter() - begin:.1f} s")
            print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
            if chosen.picture:
                take_picture(path, chosen.picture, chosen.height)
                return
            load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
            print(f"{platform.platform()}, {os.cpu_count()} cores{load}")
            print(json.dumps(measure(path, chosen.frames), indent=1))
    except NoBrowserError as error:
        raise SystemExit(f"Nothing was measured: {error}.") from error


if __name__ == "__main__":
    main()
