from __future__ import annotations

import pytest

from anosynth.errors import DataError
from anosynth.licences import most_restrictive


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (["CC0-1.0"], "CC0-1.0"),
        (["CC0-1.0", "MIT"], "MIT"),
        (["CC0-1.0", "CC-BY-4.0", "CC0-1.0"], "CC-BY-4.0"),
        (["CC-BY-4.0", "CC-BY-SA-4.0", "Apache-2.0"], "CC-BY-SA-4.0"),
        (["CC BY-SA 4.0", "CC0-1.0"], "CC BY-SA 4.0"),
        (["CC-BY-SA-4.0", "CC-BY-NC-SA-4.0"], "CC-BY-NC-SA-4.0"),
        (["CC-BY-SA-4.0", "CC-BY-NC-4.0"], "CC-BY-NC-4.0 AND CC-BY-SA-4.0"),
        (["MIT", "Apache-2.0"], "Apache-2.0 AND MIT"),
        (["CC-BY-NC-SA-4.0", "Müller GmbH, ask first"], "Müller GmbH, ask first"),
        (["one", "two", "MIT"], "one AND two"),
    ],
)
def test_the_licence_with_the_most_obligations_wins(licences: list[str], expected: str) -> None:
    assert most_restrictive(licences) == expected
    assert most_restrictive(reversed(licences)) == expected


def test_combining_in_steps_gives_the_same_as_at_once() -> None:
    steps = most_restrictive([most_restrictive(["CC-BY-SA-4.0", "CC-BY-NC-4.0"]), "CC0-1.0"])
    assert steps == most_restrictive(["CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC0-1.0"])


@pytest.mark.parametrize("licence", ["CC-BY-ND-4.0", "CC BY-NC-ND 4.0", "", "  "])
def test_a_licence_nothing_could_be_passed_on_under_is_refused(licence: str) -> None:
    with pytest.raises(DataError, match="licence"):
        most_restrictive(["CC0-1.0", licence])


def test_no_licence_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="no licence"):
        most_restrictive([])
