"""Training a pair adapter on the anomalous shots: their views, their parts, and the rule of their masks.

DualAnoDiff (Jin et al. 2025), section 3. The autoencoder and the text encoder are asked once, before the first step;
with a LoRA of the text encoder, that one at every step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from anosynth.diffusion.background import background_image
from anosynth.diffusion.decoder import fit_decoder
from anosynth.diffusion.devices import accelerator_for
from anosynth.diffusion.dual import DualAdapter, DualShape
from anosynth.diffusion.dual_adapters import SavedDual, dual_from_bytes, dual_to_bytes, take_dual
from anosynth.diffusion.dual_train import DualResult, DualSet, DualTrainSettings, train_dual
from anosynth.diffusion.latent import LatentDiffusion, Moments
from anosynth.diffusion.loop import CheckpointStore, LoopSettings
from anosynth.errors import DataError
from anosynth.features import foreground
from anosynth.fingerprint import digest_value
from anosynth.licences import most_restrictive
from anosynth.params import ComputeParams, DualAnoDiffMethod
from anosynth.pools import masks
from anosynth.pools.dual_terms import DualTerms, training_values
from anosynth.pools.real import RealPair, resize_pairs
from anosynth.seeding import numpy_rng, seed_for, torch_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    View = tuple[NDArray[np.uint8], NDArray[np.uint8]]

_log = logging.getLogger(__name__)

STAGE = "personalize_pairs"
ALGORITHM = 5
"""Raised whenever equal values give another adapter."""

SHOTS_TO_LEARN_MASKS = 2
"""A reader of masks is judged on shots that it did not see; with fewer, masks are read by thresholds."""

SHOTS_FOR_KEY = 8
"""At most so many shots choose the neutral colour; all of them calibrate the thresholds on it."""

# A shifted view that loses more than this share of its defect is not shifted.
MAX_LOST_RATIO = 0.5


@dataclass(frozen=True)
class PairSubject:
    """What one adapter is trained for: everything but the pixels that shapes it.

    Attributes:
        category: slug, part of every seed's address.
        name: the object as said in a prompt.
        defects: slug of each defect type that the adapter draws, and its name as said in a prompt.
        mirror: True if mirrored shots are shots too.
        max_turn_deg: a defect turned by up to so much is still one; of drawing alone.
        shot_ids: by defect, sha256 of its shots, in order.
        size_px: side of the square training images.
        backbone: identity of the backbone.
        seed: root seed.
        chosen_by: JSON values that decide which of several checkpoints is kept, and nothing else; empty for the last.
    """

    category: str
    name: str
    defects: tuple[tuple[str, str], ...]
    mirror: bool
    max_turn_deg: float
    shot_ids: Mapping[str, tuple[str, ...]]
    size_px: int
    backbone: str
    seed: int
    chosen_by: Mapping[str, object] = field(default_factory=dict)

    def fingerprint(self, spec: DualAnoDiffMethod, compute: ComputeParams) -> str:
        """Digest of everything that shapes the adapter; the name of its checkpoints."""
        subject = {
            **vars(self),
            "defects": [list(one) for one in self.defects],
            "shot_ids": {defect: list(ids) for defect, ids in self.shot_ids.items()},
            "chosen_by": dict(self.chosen_by),
        }
        return digest_value(
            {
                "stage": STAGE,
                "algorithm": ALGORITHM,
                "subject": subject,
                "training": training_values(spec),
                "foreground": foreground.ALGORITHM,
                "compute": compute.model_dump(mode="json"),
            }
        )


@dataclass(frozen=True, eq=False)
class Candidate:
    """The adapter as it was after some steps.

    Attributes:
        step: how many.
        saved: ready to draw with.
    """

    step: int
    saved: SavedDual


@dataclass(frozen=True)
class Chosen:
    """Which candidate is kept.

    Attributes:
        step: its number of steps.
        facts: why, JSON values.
    """

    step: int
    facts: Mapping[str, object]


def stored_dual(fingerprint: str, store: CheckpointStore) -> SavedDual | None:
    """The finished adapter of a fingerprint, if the store holds it."""
    key = _key(fingerprint, "adapter")
    data = store.get_blob(key)
    return None if data is None else dual_from_bytes(data, name=key)


def fit(
    backbone: LatentDiffusion,
    shots: Mapping[str, Sequence[RealPair]],
    subject: PairSubject,
    spec: DualAnoDiffMethod,
    *,
    compute: ComputeParams,
    store: CheckpointStore,
    choose: Callable[[Sequence[Candidate]], Chosen] | None = None,
) -> SavedDual:
    """Train the adapter of a subject and store it; a run that was stopped goes on from its last checkpoint.

    Args:
        backbone: open; its networks are as before when this returns or raises.
        shots: by defect, the anomalous shots, of any sizes.
        subject: whose adapter.
        spec: the method.
        compute: device and number format of training.
        store: where checkpoints and the finished adapter are kept.
        choose: given the candidates in the order of their steps, which one to keep; asked if `spec.candidates` is not
            1, and needed then. `subject.chosen_by` names what it goes by.

    Returns:
        The adapter. Its terms are a `DualTerms`; its facts hold the probe's losses before and after training.

    Raises:
        ValueError: if there are candidates and nothing to choose by.
        DataError: if a defect has no shot, or a mask covers the whole image.
        TrainingError: if the loss is not finite.
    """
    if spec.candidates > 1 and choose is None:
        raise ValueError(f"{spec.candidates} candidates and nothing to choose by")
    sized = {defect: resize_pairs(shots.get(defect, ()), size_px=subject.size_px) for defect, _ in subject.defects}
    for defect, pairs in sized.items():
        check_shots(pairs, category=subject.category, defect=defect)
    everything = [pair for pairs in sized.values() for pair in pairs]
    fingerprint = subject.fingerprint(spec, compute)
    decoder = fit_decoder(
        backbone,
        [pair.image for pair in everything],
        LoopSettings(spec.decoder_steps, spec.decoder_lr, spec.checkpoint_every, spec.log_every, falling=True),
        seed=subject.seed,
        address=(STAGE, subject.category, *(defect for defect, _ in subject.defects)),
        accelerator=accelerator_for(compute),
        checkpoints=store,
        key=_key(fingerprint, "decoder"),
    )
    rules = {
        defect: mask_rule(
            pairs,
            key=spec.key,
            reading=spec.masks,
            see=lambda parts: list(backbone.decode(backbone.encode(parts))),
            seed=seed_for(subject.seed, STAGE, subject.category, defect, "masks"),
        )
        for defect, pairs in sized.items()
    }
    prompts = {
        defect: (
            spec.prompt.format(name=subject.name, defect=said),
            spec.part_prompt.format(name=subject.name, defect=said),
        )
        for defect, said in subject.defects
    }
    adapter = DualAdapter(
        backbone.unet,
        DualShape(spec.mode, spec.rank, spec.alpha, spec.inner, spec.background, spec.text_rank),
        generator=torch_generator(seed_for(subject.seed, STAGE, subject.category, "adapter")),
        text=backbone.text,
    ).to(backbone.device)
    seen = {defect: all_views(pairs, subject, spec) for defect, pairs in sized.items()}
    terms = DualTerms(
        prompts=prompts,
        shot_ids=subject.shot_ids,
        licence=most_restrictive(pair.licence for pair in everything),
        rules=rules,
        size_px=subject.size_px,
        mirror=subject.mirror,
        max_turn_deg=subject.max_turn_deg,
    )
    steps = candidate_steps(spec)

    def taken() -> SavedDual:
        return take_dual(
            adapter,
            backbone=subject.backbone,
            half_precision=spec.half_precision,
            terms=terms.to_json(),
            facts={},
            decoder=decoder,
        )

    def keep_candidate(step: int) -> None:
        if step in steps:
            store.put_blob(_key(fingerprint, f"candidate-{step}"), dual_to_bytes(taken()))

    result = train_dual(
        backbone,
        adapter,
        shot_set(backbone, seen, prompts=prompts, keys={defect: rule.key for defect, rule in rules.items()}),
        DualTrainSettings(
            LoopSettings(spec.steps, spec.lr, spec.checkpoint_every, spec.log_every),
            batch_size=spec.batch_size,
            min_snr_gamma=spec.min_snr_gamma,
            text_dropout=spec.text_dropout,
        ),
        seed=subject.seed,
        address=(STAGE, subject.category, *(defect for defect, _ in subject.defects)),
        accelerator=accelerator_for(compute),
        checkpoints=store,
        key=_key(fingerprint, "checkpoint"),
        backgrounds=None if spec.background == "off" else background_set(backbone, seen),
        after=keep_candidate if len(steps) > 1 else None,
    )
    saved, choice = taken(), None
    if len(steps) > 1 and choose is not None:
        candidates = [Candidate(step, _candidate(fingerprint, step, store)) for step in steps]
        choice = choose(candidates)
        (saved,) = (one.saved for one in candidates if one.step == choice.step)
    facts = _facts(subject, spec, fingerprint=fingerprint, result=result, choice=choice)
    saved = replace(saved, facts=facts)
    store.put_blob(_key(fingerprint, "adapter"), dual_to_bytes(saved))
    return saved


def candidate_steps(spec: DualAnoDiffMethod) -> tuple[int, ...]:
    """After how many steps each candidate is taken: evenly spaced, the last one at the end, none twice."""
    return tuple(dict.fromkeys(-(-spec.steps * number // spec.candidates) for number in range(1, spec.candidates + 1)))


def _candidate(fingerprint: str, step: int, store: CheckpointStore) -> SavedDual:
    key = _key(fingerprint, f"candidate-{step}")
    data = store.get_blob(key)
    if data is None:
        raise DataError(f"{key} is no longer in the store; run python -m anosynth doctor --prune and the stage again")
    return dual_from_bytes(data, name=key)


def check_shots(pairs: Sequence[RealPair], *, category: str, defect: str) -> None:
    """Refuse shots that nothing can be learned from; of a single one, warn.

    Raises:
        DataError: if there are none, or a mask covers its whole image (an empty one is no `RealPair`).
    """
    if not pairs:
        raise DataError(
            f"{category}, {defect}: a pair adapter learns from anomalous shots and there are none; raise "
            "select_shots.anomalous, or make this pool by perlin"
        )
    if len(pairs) == 1:
        _log.warning(
            "%s, %s: the pair adapter learns from a single shot; it can move, turn and redraw that defect and knows no "
            "other",
            category,
            defect,
        )
    for pair in pairs:
        if pair.mask.all():
            raise DataError(
                f"{category}, {defect}: the mask of shot {pair.sha256[:12]} covers the whole image; it shows no place, "
                "so mend or remove it"
            )


def mask_rule(
    pairs: Sequence[RealPair],
    *,
    key: Literal["chosen", "grey"],
    reading: Literal["learned", "threshold"],
    see: Callable[[Sequence[NDArray[np.uint8]]], Sequence[NDArray[np.uint8]]],
    seed: int,
) -> masks.MaskRule:
    """Calibrate masks on the shots' own parts, after the autoencoder has been through them once.

    Args:
        pairs: the shots of one defect type, of one size.
        key: the neutral colour on which masks are found best, or the paper's grey.
        reading: by a small network if that finds masks better that it did not see, or by thresholds alone.
        see: what the autoencoder makes of parts (encoded and decoded).
        seed: of the network.
    """
    images, real = [pair.image for pair in pairs], [pair.mask for pair in pairs]
    some = slice(None, None, -(-len(pairs) // SHOTS_FOR_KEY))
    neutral = masks.choose_key(images[some], real[some], see=see) if key == "chosen" else masks.GREY
    parts = see([masks.neutral_part(image, mask, key=neutral) for image, mask in zip(images, real, strict=True)])
    if reading == "threshold" or len(parts) < SHOTS_TO_LEARN_MASKS:
        return masks.calibrate(parts, real, key=neutral)
    return masks.learn_rule(parts, real, key=neutral, seed=seed)


def views(pair: RealPair, *, count: int, max_shift_ratio: float, mirror: bool, seed: int) -> Iterator[View]:
    """Views of one shot, image and mask alike: itself, then shifted ones, every second one mirrored if that is allowed.

    Shifts are drawn from (seed, shot, view); what they uncover is filled by reflection.
    """
    limit = int(max_shift_ratio * min(pair.mask.shape))
    for view in range(count):
        rows, columns = (0, 0)
        if view >= (2 if mirror else 1) and limit:
            rng = numpy_rng(seed, STAGE, "view", pair.sha256, view)
            rows, columns = (int(shift) for shift in rng.integers(-limit, limit + 1, size=2))
        image, mask = _shifted(pair.image, rows, columns), _shifted(pair.mask, rows, columns)
        if np.count_nonzero(mask) < (1.0 - MAX_LOST_RATIO) * np.count_nonzero(pair.mask) or mask.all():
            image, mask = pair.image, pair.mask
        if mirror and view % 2:
            image, mask = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(mask[:, ::-1])
        yield image, mask


def all_views(pairs: Sequence[RealPair], subject: PairSubject, spec: DualAnoDiffMethod) -> list[View]:
    """The views of all shots of one defect type, shot after shot."""
    return [
        view
        for pair in pairs
        for view in views(
            pair, count=spec.views, max_shift_ratio=spec.max_shift_ratio, mirror=subject.mirror, seed=subject.seed
        )
    ]


def shot_set(
    backbone: LatentDiffusion,
    seen: Mapping[str, Sequence[View]],
    *,
    prompts: Mapping[str, tuple[str, str]],
    keys: Mapping[str, tuple[int, int, int]],
) -> DualSet:
    """Encode every view and its part; captions are the empty one, then two per defect.

    Args:
        backbone: whose autoencoder and text encoder.
        seen: views by defect.
        prompts: by defect, of the whole image and the part.
        keys: by defect, neutral colour of the parts.
    """
    numbers = [number for number, made in enumerate(seen.values()) for _ in made]
    everything = [view for made in seen.values() for view in made]
    parts = [masks.neutral_part(image, mask, key=keys[defect]) for defect, made in seen.items() for image, mask in made]
    captions = ("", *(text for defect in seen for text in prompts[defect]))
    return DualSet(
        backbone.encode_moments([image for image, _ in everything]),
        backbone.encode_moments(parts),
        backbone.embed(captions),
        tuple(2 * number + 1 for number in numbers),
        tuple(2 * number + 2 for number in numbers),
        blank=0,
        captions=captions,
    )


def background_set(backbone: LatentDiffusion, seen: Mapping[str, Sequence[View]]) -> Moments:
    """Encode every view with its object painted over, in the order of `shot_set`."""
    images = [image for made in seen.values() for image, _ in made]
    return backbone.encode_moments([background_image(image, foreground.segment_object(image)) for image in images])


def _shifted(picture: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """Moved down by `rows` and right by `columns`, same size, edges reflected."""
    height, width = picture.shape[:2]
    margin = max(abs(rows), abs(columns))
    padded = np.pad(picture, ((margin, margin), (margin, margin), (0, 0))[: picture.ndim], mode="symmetric")
    return np.ascontiguousarray(
        padded[margin - rows : margin - rows + height, margin - columns : margin - columns + width]
    )


def _facts(
    subject: PairSubject, spec: DualAnoDiffMethod, *, fingerprint: str, result: DualResult, choice: Chosen | None
) -> dict[str, object]:
    facts: dict[str, object] = {
        "stage": STAGE,
        "category": subject.category,
        "fingerprint": fingerprint,
        "training": training_values(spec),
        "probe_loss_before": round(result.probe_before, 6),
        "probe_loss_after": round(result.probe_after, 6),
    }
    return facts if choice is None else {**facts, "kept_step": choice.step, "kept_by": dict(choice.facts)}


def _key(digest: str, kind: str) -> str:
    return f"{STAGE}/{digest}.{kind}"
