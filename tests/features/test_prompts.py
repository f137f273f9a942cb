import pytest

from anosynth.errors import ParamsError
from anosynth.features.prompts import anomalous_prompts, normal_prompts, normal_states, templates


def test_the_ensemble_has_winclips_sizes_and_no_sentence_twice() -> None:
    assert len(set(templates())) == 22
    assert len(set(normal_prompts("cable"))) == len(normal_prompts("cable")) == 7 * 22
    assert len(set(anomalous_prompts("cable"))) == len(anomalous_prompts("cable")) == 4 * 22
    assert not set(normal_prompts("cable")) & set(anomalous_prompts("cable"))


def test_sentences_read_as_written_by_hand() -> None:
    normal, anomalous = normal_prompts("metal_nut"), anomalous_prompts("metal_nut")
    for sentence in (
        "a photo of the metal nut.",
        "a jpeg corrupted photo of a flawless metal nut.",
        "a photo of a small metal nut without damage.",
        "a photo of the perfect metal nut for anomaly detection.",
    ):
        assert sentence in normal
    for sentence in (
        "a dark photo of the damaged metal nut.",
        "a photo of a metal nut with flaw for visual inspection.",
    ):
        assert sentence in anomalous
    assert not [sentence for sentence in (*normal, *anomalous) if "{" in sentence or "_" in sentence]


def test_the_first_three_twin_prompts_are_the_three_states_plainly_and_more_begin_with_fewer() -> None:
    assert normal_states("steel washer", 3) == (
        "a photo of normal steel washer without flaw",
        "a photo of normal steel washer without defect",
        "a photo of normal steel washer without damage",
    )
    assert normal_states("steel washer", 10)[:3] == normal_states("steel washer", 3)
    assert len(set(normal_states("steel washer", 30))) == 30
    for wrong in (0, 31):
        with pytest.raises(ParamsError, match="there are 1 to 30"):
            normal_states("steel washer", wrong)


@pytest.mark.parametrize("name", ["", " _ ", "!?"])
def test_a_name_that_says_nothing_is_refused(name: str) -> None:
    for prompts in (normal_prompts, anomalous_prompts):
        with pytest.raises(ParamsError, match="holds no letter or digit"):
            prompts(name)
    with pytest.raises(ParamsError, match="holds no letter or digit"):
        normal_states(name, 3)


def test_braces_in_a_name_are_letters_not_fields() -> None:
    assert normal_states("bolt {0}", 1) == ("a photo of normal bolt (0) without flaw",)
