"""Serving: a folder of queries against one category's bundle; a table of verdicts and a picture per query."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anosynth.detectors.one_to_normal import Explanation, OneToNormal
from anosynth.errors import DataError
from anosynth.imaging import decode_image, encode_png, resize_image
from anosynth.looking.sheet import Tile, contact_sheet

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
COLUMNS = ("file", "score", "threshold", "verdict", "personalized", "normal", "text", "twin", "picture", "reason")
TABLE = "verdicts.csv"
_TITLES = {"personalized": "S_P", "normal": "S_N", "text": "S_text"}


@dataclass(frozen=True)
class Count:
    """How a folder came out.

    Attributes:
        normal, anomalous, refused: queries by verdict.
        twins: queries that a twin was drawn for.
    """

    normal: int
    anomalous: int
    refused: int
    twins: int


def detect(detector: OneToNormal, images: Path, out: Path) -> Count:
    """Judge every image below a folder.

    Writes one picture per query (query, twin, map of every branch, fused map) and, last, verdicts.csv. Its column
    `reason` says why a query was refused, and of a judged one what was converted to 8-bit RGB, if anything.

    Args:
        detector: loaded.
        images: folder; subfolders count.
        out: folder to write, made if it is not there.

    Raises:
        DataError: if the folder is missing or holds no image.
    """
    if not images.is_dir():
        raise DataError(f"{images} is no folder; name the folder with the queries")
    files = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{images} holds no image; known are {', '.join(SUFFIXES)}")
    out.mkdir(parents=True, exist_ok=True)
    kept: dict[str, NDArray[np.uint8]] = {}
    refused: dict[str, str] = {}
    converted: dict[str, str] = {}

    def queries() -> Iterator[tuple[str, NDArray[np.uint8]]]:
        for path in files:
            name = path.relative_to(images).as_posix()
            try:
                decoded = decode_image(path.read_bytes(), name=name)
                detector.check(name, decoded.image)
            except DataError as error:
                refused[name] = str(error)
                continue
            if decoded.converted_from:
                converted[name] = f"converted from {decoded.converted_from} to 8-bit RGB"
            kept[name] = decoded.image
            yield name, decoded.image

    rows: list[dict[str, object]] = []
    for at, found in enumerate(detector.explain(queries())):
        name = found.prediction.id
        drawn = f"{at:05d}-{Path(name).stem}.png"
        _write(out / drawn, encode_png(explained(kept.pop(name), found), compress_level=6))
        rows.append({**_row(name, found, drawn), "reason": converted.get(name, "")})
    rows += [{"file": name, "verdict": "refused", "reason": reason} for name, reason in refused.items()]
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(sorted(rows, key=lambda row: str(row["file"])))
    _write(out / TABLE, text.getvalue().encode())
    verdicts = [row["verdict"] for row in rows]
    twins = sum(row.get("twin") == "drawn" for row in rows)
    return Count(verdicts.count("normal"), verdicts.count("anomalous"), verdicts.count("refused"), twins)


def explained(image: NDArray[np.uint8], found: Explanation) -> NDArray[np.uint8]:
    """Draw query, twin, the map of every branch and the fused map side by side, uint8 RGB.

    Maps run from black over red and yellow to white; white is what would by itself reach the threshold.
    """
    verdict = "anomalous" if found.anomalous else "normal"
    tiles = [Tile(image, None, f"{found.prediction.id}: {verdict}")]
    if found.twin is not None:
        tiles.append(Tile(resize_image(found.twin, size_px=image.shape[:2]), None, "normal twin"))
    for branch, drawn in found.maps.items():
        caption = f"{_TITLES[branch]} {found.scores[branch]:.3f}"
        tiles.append(Tile(heat(drawn, found.ranges[branch]), None, caption))
    caption = f"score {found.prediction.score:.3f}, limit {found.threshold:.3f}"
    tiles.append(Tile(heat(found.prediction.anomaly_map, found.ranges["fused"]), None, caption))
    return sheet([tiles])


def sheet(rows: Sequence[Sequence[Tile]]) -> NDArray[np.uint8]:
    """Draw rows of tiles of one length below each other, uint8 RGB."""
    return contact_sheet([tile for row in rows for tile in row], columns=len(rows[0]), tile_px=160)


def heat(values: NDArray[np.float32], limits: tuple[float, float]) -> NDArray[np.uint8]:
    """Colour a map: the lower limit black, then red, yellow, the upper limit white; uint8 RGB [H, W, 3]."""
    low, high = limits
    level = (values - low) / max(high - low, 1e-12)
    ramps = np.clip(3.0 * level[:, :, None] - np.arange(3.0), 0.0, 1.0)
    return np.rint(255.0 * ramps).astype(np.uint8)


def _row(name: str, found: Explanation, drawn: str) -> dict[str, object]:
    return {
        "file": name,
        "score": f"{found.prediction.score:.6f}",
        "threshold": f"{found.threshold:.6f}",
        "verdict": "anomalous" if found.anomalous else "normal",
        **{branch: f"{value:.6f}" for branch, value in found.scores.items()},
        "twin": "none" if found.twin is None else "drawn",
        "picture": drawn,
    }


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(data)
    temporary.replace(path)
