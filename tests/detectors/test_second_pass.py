"""One-to-Normal's second pass: the most suspicious cells are drawn again, the rest of the query's latents is kept."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from anosynth.detectors.one_to_normal import Explanation, OneToNormal
from tests.detectors.one_to_normal_parts import backbone, detector
from tests.detectors.planted import planted
from tests.detectors.tiny_aligned import GRID, TinyAligned

RATIO = 0.1
BRANCHES = (("personalized",), ("personalized", "normal"))
Query = tuple[str, np.ndarray]


def references() -> list[np.ndarray]:
    return [item.image for item in planted("cast_metal", None, "train", 3)]


def queries() -> list[Query]:
    items = (*planted("cast_metal", None, "test", 2), *planted("cast_metal", "hole", "test", 2))
    return [(f"{at}", item.image) for at, item in enumerate(items)]


@cache
def fitted(branches: tuple[str, ...], *, second_strength: float = 0.6) -> OneToNormal:
    changes = {"second_pass": True, "second_ratio": RATIO, "second_strength": second_strength, "round_trip": True}
    built = detector(branches=list(branches), **changes)
    built.fit(planted("cast_metal", None, "train", 3), ())
    return built


def explained(built: OneToNormal, images: list[Query]) -> list[Explanation]:
    return list(built.explain(images))


def distances(one: np.ndarray, others: list[np.ndarray], *, same_place: bool) -> np.ndarray:
    """Mean over levels of each patch's distance to the others' patch at its place, or to the nearest of all."""
    levels = []
    for own, other in zip(TinyAligned().patch_levels([one]), TinyAligned().patch_levels(others), strict=True):
        cosines = own.reshape(GRID**2, -1) @ other.reshape(-1, other.shape[-1]).T
        levels.append(1 - (np.diagonal(cosines) if same_place else cosines.max(axis=1)))
    return np.mean(levels, axis=0)


@pytest.mark.parametrize("branches", BRANCHES)
def test_only_the_most_suspicious_cells_are_drawn_again(branches: tuple[str, ...]) -> None:
    """A latent cell is a patch here: 8 x 8 of both. The toy's decoder mixes all cells, so latents are compared."""
    built, opened = fitted(branches), backbone()
    for name, image in queries()[1:3]:
        decoded: list[torch.Tensor] = []
        handle = opened.vae.post_quant_conv.register_forward_pre_hook(lambda _, given, to=decoded: to.append(given[0]))
        try:
            (found,) = explained(built, [(name, image)])
        finally:
            handle.remove()
        (drawn,) = built._generator().draw([image], strength=0.3)
        doubt = distances(drawn.base, [drawn.twins[drawn.likest]], same_place=True)
        doubt /= doubt.mean()
        if "normal" in branches:
            unusual = distances(image, references(), same_place=False)
            doubt += unusual / unusual.mean()
        suspicious = np.zeros(GRID**2, bool)
        suspicious[np.argsort(-doubt)[: round(RATIO * GRID**2)]] = True
        kept = opened.unscaled(opened.encode([image]))
        changed = (decoded[-1][0] - kept[0]).abs().amax(dim=0).numpy().reshape(-1)
        assert np.array_equal(changed > 1e-5, suspicious)
        assert changed[suspicious].min() > 1e-3
        painter = built._generator()._painter
        redraw = torch.from_numpy(suspicious.reshape(1, 1, GRID, GRID).astype(np.float32))
        wanted = painter.repaired([image], opened.encode([image]), redraw, prompts=[drawn.likest], ratio=0.6)
        assert np.array_equal(found.twin, wanted[0])


def test_s_p_is_that_of_the_repaired_twin_and_follows_its_strength() -> None:
    scores = []
    for second_strength in (0.6, 0.3):
        built = fitted(BRANCHES[0], second_strength=second_strength)
        for found, (_, image) in zip(explained(built, queries()), queries(), strict=True):
            base = backbone().decode(backbone().encode([image]))
            levels = zip(*(TinyAligned().patch_levels([one]) for one in (base[0], found.twin)), strict=True)
            apart = [(1 - (own[0] * twin[0]).sum(-1)).max() for own, twin in levels]
            assert found.scores["personalized"] == pytest.approx(np.mean(apart), abs=1e-5)
            scores.append(found.scores["personalized"])
    assert len(set(scores)) == 8


@pytest.mark.parametrize("branches", BRANCHES)
def test_a_repair_depends_on_neither_batch_nor_order(branches: tuple[str, ...]) -> None:
    built, images = fitted(branches), queries()
    together = explained(built, images)
    backwards = explained(built, images[::-1])[::-1]
    alone = [explained(built, [one])[0] for one in images]
    assert len(together) == 4
    for one, *others in zip(together, backwards, alone, strict=True):
        for other in others:
            assert np.abs(one.twin.astype(int) - other.twin).max() <= 1
            assert other.prediction.score == pytest.approx(one.prediction.score, abs=2e-3)
