"""The normal pool: who varies a shot, who is free, and that a sample depends on its own seed."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest

from anosynth.diffusion import toy
from anosynth.diffusion.latent import LatentDiffusion
from anosynth.diffusion.sample import draw_noise
from anosynth.params import ComputeParams, GenerateNormalsParams
from anosynth.pools.normals import ALGORITHM, METHOD, NormalsGenerator, draft, prepare, samples
from anosynth.pools.real import RealNormal
from anosynth.samples import Sample, SampleSpec, ShardJob
from anosynth.seeding import torch_generators
from anosynth.shards.plan import plan_shards

SETTINGS = GenerateNormalsParams(
    n=6,
    shard_rows=6,
    batch_size=4,
    steps=4,
    guidance=1.0,
    prompts=["a photo of normal {name}", "a photo of the {name} without flaw"],
    variation_ratio=0.6,
    strength=(0.2, 0.6),
)
SHOT_IDS = ("a" * 64, "b" * 64, "c" * 64)
COMPUTE = ComputeParams(threads=1, dtype="float32", device="cpu")

# Recorded by these tests; they change only together with normals.ALGORITHM.
GOLDEN_ALGORITHM = 2
GOLDEN_DECISIONS = "0ea1bcac13f39a08"
GOLDEN_PIXELS = (
    "134 138 131 130 159 137 135 137 98 137 162 109 141 151 140 120 154 113 196 145 111 167 193 120 "
    "153 135 113 103 187 68 138 147 178 92 158 39 136 161 132 153 181 71 113 214 73 146 147 119",
    "138 145 131 164 184 121 159 159 110 127 151 137 127 160 129 145 148 157 201 108 168 169 154 10 "
    "131 153 123 135 175 170 115 197 141 159 129 31 136 160 128 117 169 85 118 136 152 117 120 145",
)


def shots() -> list[RealNormal]:
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    licences = ("CC0-1.0", "CC-BY-SA-4.0", "CC-BY-4.0")
    return [RealNormal(*one) for one in zip(images, SHOT_IDS, licences, strict=True)]


@pytest.fixture(scope="module")
def generator() -> NormalsGenerator:
    backbone = LatentDiffusion.on(toy.build(0), compute=COMPUTE)
    return prepare(backbone, shots(), adapter="d" * 32, name="ceramic tile", settings=SETTINGS)


def jobs(*, n: int = 6, shard_rows: int = 6, batch_size: int = 4, seed: int = 1) -> tuple[ShardJob, ...]:
    return plan_shards(
        stage="generate_normals",
        pool="normals",
        category="tile",
        defect=None,
        method=METHOD,
        n=n,
        shard_rows=shard_rows,
        batch_size=batch_size,
        seed=seed,
        shape={},
        compute=COMPUTE,
        upstream={},
        algorithm=ALGORITHM,
    )


def made(planned: Sequence[ShardJob], generator: NormalsGenerator) -> list[Sample]:
    return [sample for job in planned for sample in samples(job, generator, SETTINGS)]


def specs(count: int) -> list[SampleSpec]:
    return list(jobs(n=count, shard_rows=count)[0].specs())


def test_a_shard_holds_its_samples_with_their_provenance(generator: NormalsGenerator) -> None:
    planned = jobs()
    found = made(planned, generator)
    assert [sample.spec for sample in found] == list(planned[0].specs())
    kinds = set()
    for sample in found:
        assert sample.mask is None
        assert sample.image.shape == (64, 64, 3)
        drafted, provenance = draft(sample.spec, SETTINGS, num_shots=3), sample.provenance
        assert provenance.shot_ids == SHOT_IDS
        assert provenance.licence == "CC-BY-SA-4.0"
        assert (provenance.backbone, provenance.adapter) == (generator.backbone.identity, "d" * 32)
        assert provenance.parent_id == (None if drafted.parent is None else SHOT_IDS[drafted.parent])
        assert provenance.prompt == SETTINGS.prompts[drafted.prompt].format(name="ceramic tile")
        kinds.add(drafted.parent is None)
    assert kinds == {True, False}
    assert found[0].sample_id == "normals/tile/-/personalized/000000"


def test_shares_strengths_parents_and_prompts_are_drawn_as_the_settings_say() -> None:
    drafts = [draft(spec, SETTINGS, num_shots=3) for spec in specs(2000)]
    varied = [one for one in drafts if one.parent is not None]
    assert len(varied) / 2000 == pytest.approx(0.6, abs=0.04)
    strengths = np.array([one.strength for one in varied])
    assert 0.2 <= strengths.min() < 0.22
    assert 0.58 < strengths.max() <= 0.6
    assert all(one.strength == 1.0 for one in drafts if one.parent is None)
    for values, choices in (([one.parent for one in varied], 3), ([one.prompt for one in drafts], 2)):
        counts = np.bincount(values)
        assert len(counts) == choices
        assert counts.min() > 0.8 * counts.mean()
    assert len({one.noise_seed for one in drafts}) == 2000


@pytest.mark.parametrize(("ratio", "free"), [(0.0, 20), (1.0, 0)])
def test_the_share_of_variations_may_be_all_or_nothing(ratio: float, free: int) -> None:
    settings = SETTINGS.model_copy(update={"variation_ratio": ratio})
    assert sum(draft(spec, settings, num_shots=3).parent is None for spec in specs(20)) == free


def test_a_sample_does_not_depend_on_its_batch_or_shard_or_on_how_many_there_are(generator: NormalsGenerator) -> None:
    whole = made(jobs(), generator)
    checked = 0
    for cut in (jobs(batch_size=1), jobs(shard_rows=2, batch_size=2), jobs(n=4, shard_rows=4)):
        for sample, reference in zip(made(cut, generator), whole, strict=False):
            assert sample.spec == reference.spec
            assert np.abs(sample.image.astype(int) - reference.image).max() <= 1
            checked += 1
    assert checked == 6 + 6 + 4


def test_equal_plans_give_equal_bytes_and_another_seed_another_pool(generator: NormalsGenerator) -> None:
    first, again, other = made(jobs(), generator), made(jobs(), generator), made(jobs(seed=2), generator)
    assert all(np.array_equal(one.image, two.image) for one, two in zip(first, again, strict=True))
    assert not any(np.array_equal(one.image, two.image) for one, two in zip(first, other, strict=True))


def test_a_weak_variation_stays_nearer_to_its_shots_round_trip_than_a_strong_one(generator: NormalsGenerator) -> None:
    """In the latent space of a random backbone nothing else can be asked."""
    backbone, distances = generator.backbone, []
    for strength in (0.02, 0.9):
        settings = SETTINGS.model_copy(update={"variation_ratio": 1.0, "strength": (strength, strength)})
        total = 0.0
        for sample in samples(jobs()[0], generator, settings):
            parent = generator.latents[[SHOT_IDS.index(str(sample.provenance.parent_id))]]
            total += float(np.abs(sample.image.astype(int) - backbone.decode(parent)[0]).mean())
        distances.append(total)
    assert distances[0] < 0.5 * distances[1]


def test_guidance_is_used_if_it_is_asked_for(generator: NormalsGenerator) -> None:
    settings = SETTINGS.model_copy(update={"guidance": 4.0})
    guided = prepare(generator.backbone, shots(), adapter="d" * 32, name="ceramic tile", settings=settings)
    assert generator.blank is None
    assert guided.blank is not None
    plain, other = next(samples(jobs()[0], generator, SETTINGS)), next(samples(jobs()[0], guided, settings))
    assert not np.array_equal(plain.image, other.image)


def test_results_change_only_with_the_algorithm_number(generator: NormalsGenerator) -> None:
    """Decisions and noise exactly, every sixteenth pixel within one grey level."""
    assert ALGORITHM == GOLDEN_ALGORITHM
    drafts = [draft(spec, SETTINGS, num_shots=3) for spec in specs(2)]
    noise = draw_noise((4, 8, 8), generators=torch_generators([one.noise_seed for one in drafts]))
    named = [(one.parent, f"{one.strength:.12f}", one.prompt) for one in drafts]
    assert hashlib.sha256(repr(named).encode() + noise.numpy().tobytes()).hexdigest()[:16] == GOLDEN_DECISIONS
    found = [sample.image[::16, ::16, :].reshape(-1) for sample in made(jobs(n=2, shard_rows=2), generator)]
    for pixels, golden in zip(found, GOLDEN_PIXELS, strict=True):
        assert np.abs(pixels.astype(int) - np.array(golden.split(), dtype=int)).max() <= 1
