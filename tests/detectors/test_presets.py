"""What a fit of the preset `paper` says of itself in the log: every unknown it filled in, and every departure."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from anosynth.detectors.protocol import LabelledImage
from anosynth.params import PersonalizeNormalsParams
from tests.detectors.one_to_normal_parts import adapter, detector
from tests.detectors.planted import planted


def said(caplog: pytest.LogCaptureFixture, *, free: int = 0, made: int = 0, **changes: object) -> dict[str, str]:
    """What is logged, by the words before the first colon."""
    caplog.clear()
    pool = [
        LabelledImage(f"s{at}", one.image, None, synthetic=True, free=at < free)
        for at, one in enumerate(planted("cast_metal", None, "pool", made))
    ]
    with caplog.at_level(logging.INFO, logger="anosynth.detectors"):
        detector(**changes).fit((*planted("cast_metal", None, "train", 2), *pool), ())  # type: ignore[arg-type]
    lines = [record.message for record in caplog.records if "paper preset" in record.message]
    told = [line.split("paper preset: ")[1] for line in lines]
    return {line if line.startswith("not as") else line.split(":")[0]: line for line in told}


def test_every_unknown_is_named_with_the_value_that_was_taken(caplog: pytest.LogCaptureFixture) -> None:
    told = said(caplog, steps=None, guidance=None, strengths=None, strength=0.02)
    taken = {
        "fusion (Eq. 7 is lost)": "1 S_P + 1 S_N + 0.5 S_text",
        "SSIM selection": "ssim_loss",
        "SSIM": "11 x 11",
        "encoder": "2 levels, text meets levels 0, 1 through what the encoder has for it, logit scale 10",
        "sampler": "ddim, 50 steps of a full path, guidance 3, eta 0, r 0.02",
        "working size": "64 px",
        "prompts": "a photo of normal washer without flaw; ",
        "S_P": "the chosen twin alone",
        "generator": "LoRA of rank 2 on to_q, to_k, to_v, to_out.0; how it was trained is not on record",
        "bank": "2 references and 0 of 0 generated normals (0 of them free samples)",
        "score of an image": "the greatest patch;",
        "maps": "sigma 4 px",
    }
    for unknown, value in taken.items():
        assert value in told[unknown]
    assert not [line for line in told if line.startswith("not as")]


def test_the_bank_is_counted_not_promised(caplog: pytest.LogCaptureFixture) -> None:
    told = said(caplog, made=5, free=2, bank_images=4, branches=["normal"])
    assert "2 references and 2 of 5 generated normals (2 of them free samples)" in told["bank"]
    assert "generator" not in told


def test_a_switch_that_is_set_otherwise_is_named(caplog: pytest.LogCaptureFixture) -> None:
    told = said(caplog, branches=["normal"], steps=50, guidance=3.0, top_ratio=0.02, place_weight=0.4)
    assert [line for line in told if line.startswith("not as")] == [
        "not as in the paper: place_weight is 0.4, in the preset 0.0",
        "not as in the paper: top_ratio is 0.02, in the preset 0.0",
    ]
    assert "the greatest 2% of the patches" in told["score of an image"]
    assert not said(caplog, preset="best", branches=["normal"])


def test_how_the_generator_learned_is_read_from_its_adapter(caplog: pytest.LogCaptureFixture) -> None:
    settings = PersonalizeNormalsParams(
        steps=9, batch_size=1, prior_weight=0.0, prior_images=0, falling=True, decoder_steps=3
    )
    built = detector(branches=["personalized"])
    told = replace(adapter(), facts={"steps": 7, "settings": settings.model_dump(mode="json")})
    built._source = replace(built._source, read_adapter=lambda: told)
    with caplog.at_level(logging.INFO, logger="anosynth.detectors"):
        built.fit(planted("cast_metal", None, "train", 2), ())
    (line,) = [record.message for record in caplog.records if "generator: " in record.message]
    assert "7 steps of 1 at 0.0001 falling to zero, no prior preservation, 1 views" in line
    assert "decoder trained for 3 steps" in line
