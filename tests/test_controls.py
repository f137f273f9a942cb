"""What the report says of realism, shortcuts and defect types."""

from anosynth.controls import controls_json, controls_markdown

POOL = {
    "images": 5,
    "kid_lite": {"value": 0.25, "sd": 0.01},
    "kid_lite_crops": {"value": 0.5, "sd": None},
    "ic_lpips_lite": {"value": None, "sd": None},
    "manifolds": {"precision": 0.5, "recall": 0.25, "density": 1.5, "coverage": None},
}
MEASURED = {
    "category": "washer",
    "judge": {"model": "lite2", "size_px": 160},
    "reference": "held_out",
    "pools": {"scratch/perlin": POOL},
    "real_shots": {"scratch": {"images": 0}},
}
SHORTCUT = {
    "category": "washer",
    "role": "test",
    "images": 40,
    "max_auroc": 0.6,
    "shortcut_auroc": {"unet": {"real": {"0": 0.5, "1": 0.6}, "dual": {"0": 0.7, "1": 0.8}}},
}
TYPES = {
    "category": "washer",
    "arms": {
        "real": {
            "accuracy": {"value": 0.75, "low": 0.5, "high": 0.9},
            "macro_f1": {"value": 0.5, "low": None, "high": None},
        }
    },
}
ONE_TYPE = {"category": "wood", "arms": {}, "note": "1 defect type in grid.pairs: there is nothing to tell apart"}


def test_every_number_stands_in_its_row_and_undefined_ones_are_dashes() -> None:
    text = controls_markdown(measures=[MEASURED], shortcuts=[SHORTCUT], types=[TYPES, ONE_TYPE])
    rows = [line for line in text.splitlines() if line.startswith("| w")]
    assert rows == [
        "| washer | scratch/perlin | 5 | 0.250 ± 0.010 | 0.500 | – | 0.500 | 0.250 | 1.500 | – |",
        "| washer | scratch: the real shots | 0 | – | – | – | – | – | – | – |",
        "| washer | unet | real | 0.550 | fine |",
        "| washer | unet | dual | 0.750 | above |",
        "| washer | real | 0.750 [0.500, 0.900] | 0.500 |",
    ]
    assert "held out real images, in the features of lite2 at 160 px" in text
    assert "wood: 1 defect type" in text


def test_published_figures_stand_behind_the_lite_ones_where_they_were_measured() -> None:
    pool = {
        **POOL,
        "fid": {"value": 80.5, "sd": None},
        "inception_score": {"value": None, "sd": None, "splits": 10, "reason": "too few"},
        "ic_lpips": {"value": 0.25, "sd": 0.125},
    }
    one = {**MEASURED, "pools": {"scratch/perlin": pool}, "published": {}}
    text = controls_markdown(measures=[one], shortcuts=[], types=[])
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[0].endswith("| coverage | FID | IS | IC-LPIPS |")
    assert rows[-2].endswith("| 1.500 | – | 80.500 | – | 0.250 ± 0.125 |")
    assert rows[-1].endswith("| – | – | – | – |")
    assert "All but FID, IS, IC-LPIPS are not the published metrics" in text
    assert "FID is biased upwards" in text
    found = controls_json(measures=[one], shortcuts=[], types=[])["realism"]
    assert found == {
        "washer": {
            "scratch/perlin": {
                "kid_lite": 0.25, "kid_lite_crops": 0.5, "ic_lpips_lite": None,
                "fid": 80.5, "inception_score": None, "ic_lpips": 0.25,
            }
        }
    }  # fmt: skip


def test_nothing_measured_says_nothing() -> None:
    assert controls_markdown(measures=[], shortcuts=[], types=[]) == ""
    assert controls_json(measures=[], shortcuts=[], types=[]) == {
        "realism": {},
        "shortcut_auroc": {},
        "defect_types": {},
    }


def test_the_numbers_for_comparison_are_nested_by_category() -> None:
    found = controls_json(measures=[MEASURED], shortcuts=[SHORTCUT], types=[TYPES])
    assert found == {
        "realism": {"washer": {"scratch/perlin": {"kid_lite": 0.25, "kid_lite_crops": 0.5, "ic_lpips_lite": None}}},
        "shortcut_auroc": {"washer": {"unet": {"real": 0.55, "dual": 0.75}}},
        "defect_types": {"washer": {"real": {"accuracy": 0.75, "macro_f1": 0.5}}},
    }
