"""One-to-Normal's presets: `paper` is sections 3 and 4 of the method, `best` adds extras, each a switch.

Section 2, the generator and its pool, is the stages personalize_normals and generate_normals; a fit of `paper` says in
the log how they were set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, assert_never

from anosynth.diffusion.solver import SamplerSettings
from anosynth.params import OneToNormalSpec, Select, Solver

if TYPE_CHECKING:
    from anosynth.diffusion.adapters import Adapter
    from anosynth.features.aligned import AlignedFeatures

Branch = Literal["personalized", "normal", "text"]
BRANCHES: tuple[Branch, ...] = ("personalized", "normal", "text")


@dataclass(frozen=True)
class Switches:
    """Every choice that the presets differ in.

    Attributes:
        solver, steps, guidance: how a twin is drawn; a twin takes the share r of `steps`.
        select: how one of the n twins is chosen, or "patch_min": none is, the best of them counts patch by patch.
        visual_levels: levels that S_P and S_N compare: "all"; "local", the encoder's `local_levels`, where a patch says
            more of its place than of the whole picture; or "joint", those side by side, so that one normal patch must
            match them all.
        mirror_tolerance: mirror images of the references join the bank if references are at most so many times as far
            from them as from each other; 0: none does.
        place_weight: of how far away a normal patch lies, as shares of the sides squared, beside its distance in S_N;
            0 compares with every patch alike.
        place_limit: the place weight counts if the references agree on what lies where: if `symmetry.misalignment` is
            at most this; 0: always.
        top_ratio: share of the patches whose mean is a branch's score; 0 is the greatest alone.
        tolerance: reach of S_P's neighbourhood in patches; 0 is the same place only.
        round_trip: twins are compared with the VAE's round trip of the query in place of the query itself, so that what
            the VAE loses counts for nothing.
        calibrate_positions: S_P becomes a z-score against the twins of the references, per place and level.
        calibrate_fusion: each branch is standardized by its leave-one-out scores on the references before it is added.
        twin_weight: of S_P in the sum, beside alpha of S_N and beta of S_text.
        weigh_text: S_text counts as much as it tells references with planted defects from clean ones.
        strengths: candidates of r; the one under which planted defects stand out most from the references is taken.
            Empty: r is `strength`.
        second_pass: the most suspicious part is drawn again, from more noise, and the rest of the latents kept.
        synthetic_weight: (0, 1], of generated patches in the bank against real ones.
    """

    solver: Solver
    steps: int
    guidance: float
    select: Select
    visual_levels: Literal["all", "local", "joint"]
    mirror_tolerance: float
    place_weight: float
    place_limit: float
    top_ratio: float
    tolerance: int
    round_trip: bool
    calibrate_positions: bool
    calibrate_fusion: bool
    twin_weight: float
    weigh_text: bool
    strengths: tuple[float, ...]
    second_pass: bool
    synthetic_weight: float

    def sampler(self) -> SamplerSettings:
        """Solver settings of a twin."""
        return SamplerSettings(self.solver, self.steps, self.guidance)


PAPER = Switches(
    solver="ddim",
    steps=50,
    guidance=3.0,
    select="ssim_loss",
    visual_levels="all",
    mirror_tolerance=0.0,
    place_weight=0.0,
    place_limit=0.0,
    top_ratio=0.0,
    tolerance=0,
    round_trip=False,
    calibrate_positions=False,
    calibrate_fusion=False,
    twin_weight=1.0,
    weigh_text=False,
    strengths=(),
    second_pass=False,
    synthetic_weight=1.0,
)
BEST = Switches(
    solver="dpm_solver",
    steps=20,
    guidance=1.0,
    select="patch_min",
    visual_levels="joint",
    mirror_tolerance=1.1,
    place_weight=0.4,
    place_limit=0.8,
    top_ratio=0.02,
    tolerance=1,
    round_trip=True,
    calibrate_positions=True,
    calibrate_fusion=True,
    twin_weight=0.25,
    weigh_text=True,
    strengths=(),
    second_pass=False,
    synthetic_weight=0.8,
)


def switches(spec: OneToNormalSpec) -> Switches:
    """The preset of a spec with the switches that the spec sets itself."""
    match spec.preset:
        case "paper":
            preset = PAPER
        case "best":
            preset = BEST
        case _:
            assert_never(spec.preset)
    chosen = {field.name: getattr(spec, field.name) for field in fields(Switches)}
    return Switches(**{name: getattr(preset, name) if value is None else value for name, value in chosen.items()})


def weights(spec: OneToNormalSpec) -> dict[Branch, float]:
    """Weight of every branch that counts: A = w S_P + alpha S_N + beta S_text; with w = 1, Eq. 7 as we read it."""
    factors: dict[Branch, float] = {"personalized": switches(spec).twin_weight, "normal": spec.alpha, "text": spec.beta}
    return {branch: factors[branch] for branch in BRANCHES if branch in spec.branches}


@dataclass(frozen=True)
class BankCounts:
    """What a fit was given for its bank of normal patches, and took.

    Attributes:
        num_references: real images.
        num_generated, num_free: generated images, and those of them that vary no real one.
        num_chosen: generated images in the bank.
    """

    num_references: int
    num_generated: int
    num_free: int
    num_chosen: int


def filled_in(
    spec: OneToNormalSpec,
    features: AlignedFeatures,
    bank: BankCounts,
    *,
    states: Sequence[str],
    adapter: Adapter | None,
    size_px: int,
) -> tuple[str, ...]:
    """What the paper leaves open and this fit decided, and where it departs from the paper; one sentence each.

    Args:
        spec: preset `paper`.
        features: the encoder.
        bank: what it was made of.
        states: the normal-state prompts.
        adapter: the generator's; None if no twin is drawn.
        size_px: side of the generator's pictures.
    """
    chosen = switches(spec)
    text = ", ".join(map(str, features.text_levels))
    lines = [
        f"fusion (Eq. 7 is lost): {chosen.twin_weight:g} S_P + {spec.alpha:g} S_N + {spec.beta:g} S_text; beta is "
        "taken as the text branch's",
        f"encoder: {features.levels} levels, text meets levels {text} through what the encoder has for it, "
        f"logit scale {features.temperature:g}",
        "images are resized by area average where they shrink and bicubic where they grow",
        f"bank: {bank.num_references} references and {bank.num_chosen} of {bank.num_generated} generated normals "
        f"({bank.num_free} of them free samples), chosen by greedy k-centre; {spec.bank_images} images at most",
        f"score of an image: mean over levels of {_of_patches(chosen)}; no value of another query enters it",
        "maps: mean over levels, the score's weights, bilinear, Gaussian of sigma 4 px; distances are 1 - cos",
    ]
    if adapter is not None:
        lines += [
            f"prompts: the normal states are {'; '.join(states)}",
            f"SSIM selection: {chosen.select} (the paper's argmin of SSIM is read as argmin of 1 - SSIM in ssim_loss)",
            "SSIM: grey levels in [0, 1], 240 px, 11 x 11 Gaussian window of sigma 1.5, ties of 1e-4 to the first "
            "prompt",
            f"sampler: {chosen.solver}, {chosen.steps} steps of a full path, guidance {chosen.guidance:g}, eta 0, "
            f"r {spec.strength:g}",
            f"working size: {size_px} px, the query squashed to a square",
            "S_P: "
            + ("the best of the twins, patch by patch" if chosen.select == "patch_min" else "the chosen twin alone"),
            f"generator: {_training(adapter)}",
        ]
    lines += [
        f"not as in the paper: {name} is {value}, in the preset {getattr(PAPER, name)}"
        for name, value in vars(chosen).items()
        if value != getattr(PAPER, name)
    ]
    return tuple(lines)


def _of_patches(chosen: Switches) -> str:
    return "the greatest patch" if chosen.top_ratio == 0.0 else f"the greatest {chosen.top_ratio:.0%} of the patches"


def _training(adapter: Adapter) -> str:
    """How the generator learned the references; an adapter from before this was recorded tells its layers alone."""
    adapted = "the whole U-Net" if adapter.rank == 0 else f"LoRA of rank {adapter.rank} on {', '.join(adapter.targets)}"
    told = adapter.facts.get("settings")
    if not isinstance(told, Mapping):
        return f"{adapted}; how it was trained is not on record"
    falling = "falling to zero" if told["falling"] else "constant"
    prior = (
        f"prior preservation at weight {told['prior_weight']:g} on {told['prior_images']} images"
        if told["prior_weight"] and told["prior_images"]
        else "no prior preservation"
    )
    return (
        f"{adapted}, {adapter.facts['steps']} steps of {told['batch_size']} at {told['lr']:g} {falling}, {prior}, "
        f"{told['views']} views of each reference and allowed mirror image, {told['planted_variants']} variants with "
        f"planted defects, text encoder as it was, decoder trained for {told['decoder_steps']} steps"
    )
