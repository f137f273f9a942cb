"""Choosing a checkpoint of a pair adapter, with the toy backbone."""

from collections.abc import Sequence

import pytest

from anosynth.diffusion.latent import LatentDiffusion, open_backbone
from anosynth.params import ComputeParams, ToyBackbone
from anosynth.pools.dual_fit import fit
from anosynth.screening.ceiling import Ceiling
from anosynth.screening.checkpoints import CurvePoint, choose_checkpoint
from anosynth.screening.memorization import NearestShot
from tasks._choosing import Candidate, Yardstick, chooser, job_of, named, share_above
from tests.blobs import Blobs
from tests.pools.dual_small import method, shots, subject
from tests.pools.small import disk, normal

COMPUTE = ComputeParams(threads=1, dtype="float32", device="cpu")
PARENTS = [normal(disk(seed)) for seed in (11, 12)]
SPEC = method(candidates=3, candidate_draws=4, lr=1e-2)


@pytest.fixture(scope="module")
def backbone() -> LatentDiffusion:
    return open_backbone(ToyBackbone(kind="toy", seed=0), compute=COMPUTE)


def choice(backbone: LatentDiffusion, groups: Sequence[str]) -> dict[str, object]:
    whose, given = subject(backbone.identity), {"spot": shots()}
    choose = chooser(backbone, whose, SPEC, parents=PARENTS, shots=given, groups={"spot": groups}, compute=COMPUTE)
    return dict(fit(backbone, given, whose, SPEC, compute=COMPUTE, store=Blobs(), choose=choose).facts)


def test_every_candidate_has_its_share_and_the_rule_is_asked(backbone: LatentDiffusion) -> None:
    facts = choice(backbone, ("a", "b", "c"))
    told = facts["kept_by"]
    assert isinstance(told, dict)
    points = [CurvePoint(**point) for point in told["curve"]]
    assert [point.step for point in points] == [1, 2, 3]
    expected = choose_checkpoint(points)
    assert (facts["kept_step"], told["why"]) == (expected.point.step, expected.why)


def test_shots_of_one_group_have_no_ceiling_and_the_last_step_is_kept(backbone: LatentDiffusion) -> None:
    facts = choice(backbone, ("a", "a", "a"))
    assert facts["kept_step"] == 3
    assert facts["kept_by"] == {
        "why": "the shots come from one group, so they have no ceiling; the last step is kept",
        "curve": [],
    }


def test_a_share_counts_the_draws_above_the_ceiling(backbone: LatentDiffusion) -> None:
    whose = subject(backbone.identity)
    plain = method(lr=1e-2, blend_px=None)
    saved = fit(backbone, {"spot": shots()}, whose, plain, compute=COMPUTE, store=Blobs())
    nearest = NearestShot([shot.image for shot in shots()], others=[parent.image for parent in PARENTS])
    shares = []
    for value in (-1.1, 1.1):
        yardstick = Yardstick(job_of(whose, "spot", SPEC, COMPUTE), shots(), nearest, Ceiling(value, value, 6, 3))
        shares.append(share_above(Candidate(3, saved), backbone, SPEC, PARENTS, [yardstick]))
    assert 0.0 < shares[0] <= 1.0
    assert shares[1] == 0.0


def test_only_a_choice_makes_drawing_a_part_of_training() -> None:
    whose = subject("b")
    assert named(method(), normals=["n"]) == {}
    faces = set()
    for spec, normals in ((SPEC, ["n"]), (SPEC, ["m"]), (method(candidates=3, strength=0.7), ["n"])):
        chosen_by = named(spec, normals=normals)
        faces.add(type(whose)(**{**vars(whose), "chosen_by": chosen_by}).fingerprint(SPEC, COMPUTE))
    assert len(faces) == 3
