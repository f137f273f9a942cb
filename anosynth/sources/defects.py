"""Which defect types of a source are taken, and which folder or label of the source means which slug."""

from __future__ import annotations

import re
from collections.abc import Iterable

from anosynth.errors import DataError
from anosynth.params import SLUG_PATTERN, ObjectParams


def defect_folders(
    there: Iterable[str], *, category: str, obj: ObjectParams, defects: tuple[str, ...], where: str
) -> dict[str, str]:
    """Map the slug of each defect type to its folder (or label) in the source.

    Args:
        there: folders or labels of defects that the source has.
        category: for errors.
        obj: `obj.defect_folders` translates slugs to the source's names; the slug itself is the default.
        defects: slugs to take; empty takes all that the source has.
        where: what was looked at, for errors.

    Returns:
        slug -> folder, in the order of `defects`, or of `there` if that is empty.

    Raises:
        DataError: if a wanted defect is not there, or a folder that would be taken has no slug for a name.
    """
    found = list(there)
    if defects:
        folders = {defect: obj.defect_folders.get(defect, defect) for defect in defects}
        for defect, folder in folders.items():
            if folder not in found:
                raise DataError(
                    f"{where}: no defect {folder!r} for {category}; there: {', '.join(found) or 'none'}; "
                    f"correct grid.pairs, or set objects.{category}.defect_folders.{defect} in params.yaml"
                )
        return folders
    slugs = {folder: slug for slug, folder in obj.defect_folders.items()}
    taken = {slugs.get(folder, folder): folder for folder in found}
    for slug, folder in taken.items():
        if not re.fullmatch(SLUG_PATTERN, slug):
            raise DataError(
                f"{where}: the defect {folder!r} cannot be a key (small letters, digits and _); "
                f"give it one under objects.{category}.defect_folders in params.yaml"
            )
    return taken
