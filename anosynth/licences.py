"""Which licence a mixture of licensed images has: the one whose obligations hold all the others'.

Unknown texts are taken to be the most restrictive and are kept word for word. Licences that forbid derivatives are
refused: a synthetic image shaped by such an image could not be passed on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from anosynth.errors import DataError

JOIN = " AND "

_FREE = frozenset[str]()
_CREDIT = frozenset({"attribution"})
_SHARE_ALIKE = _CREDIT | {"share-alike"}
_NON_COMMERCIAL = _CREDIT | {"non-commercial"}

# Names without version, upper case, words joined by "-".
_OBLIGATIONS: dict[str, frozenset[str]] = {
    "CC0": _FREE,
    "UNLICENSE": _FREE,
    "0BSD": _FREE,
    "PDDL": _FREE,
    "PUBLIC-DOMAIN": _FREE,
    "APACHE": _CREDIT,
    "MIT": _CREDIT,
    "ISC": _CREDIT,
    "BSD-2-CLAUSE": _CREDIT,
    "BSD-3-CLAUSE": _CREDIT,
    "CC-BY": _CREDIT,
    "ODC-BY": _CREDIT,
    "CC-BY-SA": _SHARE_ALIKE,
    "ODBL": _SHARE_ALIKE,
    "CC-BY-NC": _NON_COMMERCIAL,
    "CC-BY-NC-SA": _NON_COMMERCIAL | _SHARE_ALIKE,
}


def most_restrictive(licences: Iterable[str]) -> str:
    """Combine the licences of everything that shaped an image or a data set.

    A licence is dropped if the obligations of another one include its own and more; what is left is joined with
    " AND " in alphabetical order (an SPDX expression if all names are SPDX). Combining is associative, so combined
    licences may be combined again.

    Args:
        licences: at least one; SPDX identifiers, common spellings of them ("CC BY-SA 4.0"), or any other text.

    Returns:
        The combined licence; spellings are kept as they were given.

    Raises:
        DataError: if a licence is empty or forbids derivatives (ND), or if there is none.
    """
    parts = sorted({part.strip() for text in licences for part in text.split(JOIN)})
    if not parts:
        raise DataError("no licence was given; every source states one (params.yaml: source.licence)")
    known: dict[str, frozenset[str]] = {}
    unknown: list[str] = []
    for part in parts:
        check_licence(part)
        found = _OBLIGATIONS.get(_name(part))
        if found is None:
            unknown.append(part)
        else:
            known[part] = found
    if unknown:
        return JOIN.join(unknown)
    kept = [part for part, own in known.items() if not any(own < other for other in known.values())]
    return JOIN.join(kept)


def check_licence(licence: str) -> None:
    """Refuse a licence under which nothing synthetic could be passed on.

    Raises:
        DataError: if the text is empty or is a no-derivatives licence.
    """
    if not licence.strip():
        raise DataError("a licence is empty; every source states one (params.yaml: source.licence)")
    if "ND" in _name(licence).split("-"):
        raise DataError(
            f"the licence {licence!r} forbids derivatives, and a synthetic image is one; use images under another one"
        )


def forbids_commerce(licence: str) -> bool:
    """Whether a licence, or one of those that were combined to it, is non-commercial (NC)."""
    return any("NC" in _name(part).split("-") for part in licence.split(JOIN))


def _name(licence: str) -> str:
    words = re.split(r"[\s\-_]+", licence.strip().upper())
    return "-".join(word for word in words if not re.fullmatch(r"V?\d+(\.\d+)+", word))
