"""What drawing with a pair adapter needs beside its weights, and the three ways of drawing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import assert_never

from anosynth.errors import BackboneError
from anosynth.params import DualAnoDiffMethod, Solver
from anosynth.pools.masks import MaskRule

ALGORITHM = 5
"""Of drawing; raised whenever equal values give other samples."""

_TRAINING = frozenset(
    {
        "kind", "mode", "rank", "alpha", "inner", "background", "text_rank", "half_precision", "shared", "steps", "lr",
        "batch_size", "min_snr_gamma", "text_dropout", "views", "max_shift_ratio", "prompt", "part_prompt", "key",
        "masks", "candidates", "candidate_draws", "decoder_steps", "decoder_lr",
    }
)  # fmt: skip
_SHAPELESS = frozenset({"checkpoint_every", "log_every"})


@dataclass(frozen=True)
class DualTerms:
    """What goes with an adapter; a part of its digest.

    Attributes:
        prompts: by defect, what the whole image and the part are told.
        shot_ids: by defect, sha256 of the shots it was trained on.
        licence: most restrictive licence of all of them.
        rules: by defect, how a part becomes a mask, with the neutral colour.
        size_px: side of the images it was trained on.
        mirror: a mirrored defect of the object is still one.
        max_turn_deg: so is one that is turned by up to so much.
    """

    prompts: Mapping[str, tuple[str, str]]
    shot_ids: Mapping[str, tuple[str, ...]]
    licence: str
    rules: Mapping[str, MaskRule]
    size_px: int
    mirror: bool
    max_turn_deg: float

    def to_json(self) -> dict[str, object]:
        """As JSON values."""
        return {
            "prompts": {defect: list(told) for defect, told in self.prompts.items()},
            "shot_ids": {defect: list(ids) for defect, ids in self.shot_ids.items()},
            "licence": self.licence,
            "rules": {defect: {**asdict(rule), "key": list(rule.key)} for defect, rule in self.rules.items()},
            "size_px": self.size_px,
            "mirror": self.mirror,
            "max_turn_deg": self.max_turn_deg,
        }


def terms_from_json(value: Mapping[str, object]) -> DualTerms:
    """Rebuild `DualTerms.to_json`.

    Raises:
        BackboneError: if something is missing or of another form.
    """
    try:
        prompts, shot_ids, rules = value["prompts"], value["shot_ids"], value["rules"]
        assert isinstance(prompts, dict)
        assert isinstance(shot_ids, dict)
        assert isinstance(rules, dict)
        assert rules.keys() == prompts.keys()
        return DualTerms(
            prompts={defect: (whole, part) for defect, (whole, part) in prompts.items()},
            shot_ids={defect: tuple(ids) for defect, ids in shot_ids.items()},
            licence=str(value["licence"]),
            rules={defect: MaskRule(**{**rule, "key": tuple(rule["key"])}) for defect, rule in rules.items()},
            size_px=int(str(value["size_px"])),
            mirror=value["mirror"] is True,
            max_turn_deg=float(str(value["max_turn_deg"])),
        )
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise BackboneError(
            f"the pair adapter does not say how to draw with it ({error!r}); run personalize_pairs again"
        ) from error


@dataclass(frozen=True)
class Drawing:
    """A profile, resolved.

    Attributes:
        solver, steps, guidance: of the denoising path.
        at_once: pairs drawn together, or None for the job's batch size.
    """

    solver: Solver
    steps: int
    guidance: float
    at_once: int | None


def drawing(spec: DualAnoDiffMethod) -> Drawing:
    """The values behind `spec.profile`."""
    match spec.profile:
        case "paper":
            return Drawing("plms", 100, 2.5, at_once=1)
        case "default":
            return Drawing("dpm_solver", 25, 2.0, at_once=None)
        case "fast":
            return Drawing("dpm_solver", 12, 1.0, at_once=None)
        case _:
            assert_never(spec.profile)


def training_values(spec: DualAnoDiffMethod) -> dict[str, object]:
    """The values of a method that shape its adapter, as JSON.

    A LoRA of the text encoder is named where there is one: adapters without it keep the digests they had before it.
    """
    named = _TRAINING if spec.text_rank else _TRAINING - {"text_rank"}
    return spec.model_dump(mode="json", include=set(named))


def drawing_values(spec: DualAnoDiffMethod) -> dict[str, object]:
    """The values of a method that shape its samples beside the adapter, the profile's own numbers included."""
    named = spec.model_dump(mode="json", exclude=set(_TRAINING | _SHAPELESS))
    return {"kind": spec.kind, **named, **asdict(drawing(spec))}
