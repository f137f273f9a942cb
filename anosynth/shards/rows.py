"""One sample as one row of a shard, and back."""

from __future__ import annotations

from collections.abc import Mapping

from anosynth.imaging import decode_image, decode_mask, encode_png, encode_webp
from anosynth.samples import Provenance, Sample, SampleSpec

Row = dict[str, object]


def encode_row(sample: Sample, *, plan: str) -> Row:
    """Turn a sample into a row of `schema.SCHEMA`; equal samples give equal rows with one Pillow version.

    Args:
        sample: image and part become lossless WebP, the mask becomes PNG.
        plan: digest of the plan the sample belongs to.
    """
    spec, provenance = sample.spec, sample.provenance
    name = spec.sample_id
    return {
        "sample_id": name,
        "label": int(sample.mask is not None),
        "category": spec.category,
        "defect": spec.defect,
        "method": spec.method,
        "seed": spec.seed,
        "attempt": sample.attempt,
        "prompt": provenance.prompt,
        "parent_id": provenance.parent_id,
        "shot_ids": list(provenance.shot_ids),
        "backbone": provenance.backbone,
        "adapter": provenance.adapter,
        "plan": plan,
        "mask_area": sample.mask_area,
        "mask_confidence": sample.mask_confidence,
        "height": sample.image.shape[0],
        "width": sample.image.shape[1],
        "licence": provenance.licence,
        "image": {"bytes": encode_webp(sample.image), "path": f"{name}.webp"},
        "part": None if sample.part is None else {"bytes": encode_webp(sample.part), "path": f"{name}_part.webp"},
        "mask": None if sample.mask is None else {"bytes": encode_png(sample.mask), "path": f"{name}_mask.png"},
    }


def decode_row(row: Mapping[str, object], *, where: str) -> Sample:
    """Rebuild a sample from a row.

    Args:
        row: all columns of `schema.SCHEMA`.
        where: the shard's name, for messages.

    Returns:
        The sample that was written; `mask_confidence` has been rounded to float32.

    Raises:
        DataError: if an image or mask cannot be decoded.
        ValueError: if the parts contradict each other (see `Sample`).
    """
    name = str(row["sample_id"])
    image, part, mask = (_file(row[column]) for column in ("image", "part", "mask"))
    assert image is not None
    return Sample(
        spec=SampleSpec(
            pool="normals" if row["label"] == 0 else "pairs",
            category=str(row["category"]),
            defect=_text(row["defect"]),
            method=str(row["method"]),
            index=int(name.rsplit("/", 1)[-1]),
            seed=int(str(row["seed"])),
        ),
        image=decode_image(image, name=f"{where}: image of {name}").image,
        mask=None if mask is None else decode_mask(mask, name=f"{where}: mask of {name}"),
        provenance=Provenance(
            shot_ids=tuple(str(shot) for shot in _list(row["shot_ids"])),
            licence=str(row["licence"]),
            prompt=_text(row["prompt"]),
            parent_id=_text(row["parent_id"]),
            backbone=_text(row["backbone"]),
            adapter=_text(row["adapter"]),
        ),
        part=None if part is None else decode_image(part, name=f"{where}: part of {name}").image,
        attempt=int(str(row["attempt"])),
        mask_confidence=float(str(row["mask_confidence"])),
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


def _file(value: object) -> bytes | None:
    if value is None:
        return None
    assert isinstance(value, dict)
    data = value["bytes"]
    assert data is None or isinstance(data, bytes)
    return data
