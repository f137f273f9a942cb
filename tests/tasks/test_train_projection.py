from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anosynth.errors import DataError
from anosynth.features.aligned import build_aligned, class_prototypes
from anosynth.features.projection import Labelled, ProjectedAligned, cell_target, train_projection
from anosynth.imaging import decode_image, decode_mask, encode_png
from anosynth.layout import Layout
from anosynth.params import load_params
from tasks import train_projection as stage
from tests.sources.trees import picture, spot, write
from tests.tasks.measured import call
from tests.toy import make_project

TINY: dict[str, object] = {"images": 4, "steps": 2, "batch_size": 2}
SIDE = 64


def bolts(root: Path) -> dict[str, object]:
    """Two normal and three scratched test pictures in folders; the training pictures are no pictures."""
    write(root / "bolts/normal/000.png", b"not to be read")
    for at in range(2):
        write(root / f"bolts/test/{at}.png", encode_png(picture(at, height=SIDE, width=SIDE)))
    for at in range(3):
        write(root / f"bolts/scratch/{at}.png", encode_png(picture(9 + at, height=SIDE, width=SIDE)))
        write(root / f"bolts/masks/{at}.png", encode_png(np.roll(spot(side=SIDE), 9 * at, axis=1)))
    source = {
        "kind": "folder",
        "root": str(root),
        "licence": "CC0-1.0",
        "normal": "{category}/normal",
        "normal_test": "{category}/test",
        "anomalous": {"scratch": "{category}/scratch"},
        "masks": {"scratch": "{category}/masks"},
    }
    return {**TINY, "images": 6, "source": source, "objects": {"bolt": {"name": "hex bolt", "folder": "bolts"}}}


def opened(layout: Layout) -> ProjectedAligned:
    """The encoders of the project with the file on them, as detectors open them."""
    params = load_params(layout.params())
    spec = params.aligned.model_copy(update={"projection": str(layout.projection())})
    found = build_aligned(spec, compute=params.compute)
    assert isinstance(found, ProjectedAligned)
    return found


def test_it_trains_on_rendered_pictures_of_other_categories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = call(stage.run, make_project(tmp_path / "project", {"train_projection": {**TINY, "images": 2}}))
    said = capsys.readouterr().out
    others = "cast_metal, brushed_metal, wood, fabric, leather, tile, pill"
    assert f"2 steps on 14 pictures (CC0-1.0) of {others}, in " in said
    assert opened(layout).text_levels == (0, 1, 2)


def test_it_trains_on_the_labelled_test_pictures_of_a_source(tmp_path: Path) -> None:
    root = tmp_path / "data"
    layout = call(stage.run, make_project(tmp_path / "project", {"train_projection": bolts(root)}))
    params = load_params(layout.params())
    base = build_aligned(params.aligned, compute=params.compute)
    prototypes = class_prototypes(base, "hex bolt")
    shown = []
    for name in ("test/0", "test/1", "scratch/0", "scratch/1", "scratch/2"):
        image = decode_image((root / f"bolts/{name}.png").read_bytes(), name=name).image
        levels = tuple(level[0] for level in base.patch_levels([image]))
        mask = np.zeros((SIDE, SIDE), np.uint8)
        if name.startswith("scratch"):
            mask = decode_mask((root / f"bolts/masks/{name[-1]}.png").read_bytes(), name=name)
        shown.append(Labelled(levels, cell_target(mask, grid=levels[0].shape[:2]), prototypes))
    expected = train_projection(
        shown, temperature=base.temperature, steps=2, batch_size=2, lr=params.train_projection.lr, seed=params.seed
    )
    rows = np.random.default_rng(0).standard_normal((3, expected[1].shape[0] - 1)).astype(np.float32)
    aimed = rows @ expected[1][:-1] + expected[1][-1]
    aimed /= np.linalg.norm(aimed, axis=1, keepdims=True)
    np.testing.assert_allclose(opened(layout).project(1, rows), aimed, atol=1e-6)


def test_of_each_kind_half_as_many_as_asked_for_are_drawn_and_a_rerun_writes_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {**bolts(tmp_path / "data"), "images": 2}
    layout = call(stage.run, make_project(tmp_path / "project", {"train_projection": values}))
    assert "2 steps on 2 pictures" in capsys.readouterr().out
    first = layout.projection().read_bytes()
    layout.projection().unlink()
    call(stage.run, layout.root)
    assert layout.projection().read_bytes() == first


def test_pictures_that_cannot_be_learned_from_are_told_in_one_sentence(tmp_path: Path) -> None:
    data = tmp_path / "data"
    project = make_project(tmp_path / "project", {"train_projection": bolts(data)})
    mask = data / "bolts/masks/1.png"
    for content, message in (
        (encode_png(np.zeros((SIDE, SIDE), np.uint8)), r"scratch/1\.png: its mask is empty or not of the image's size"),
        (encode_png(spot(side=24)), r"not of the image's size \(64 x 64 px\)"),
        (None, r"scratch/1\.png: shows a defect and has no mask"),
    ):
        if content is None:
            mask.unlink()
        else:
            mask.write_bytes(content)
        with pytest.raises(DataError, match=message) as told:
            call(stage.run, project)
        assert "\n" not in str(told.value)
    assert not Layout(project).projection().exists()
    data.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"^train_projection\.source: .*no such folder"):
        call(stage.run, project)
