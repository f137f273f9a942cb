import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from anosynth.errors import BackboneError
from anosynth.features.weight_file import read_weights, weights_in

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)}


def test_both_formats_give_the_same_tensors_and_the_hash_of_their_own_file(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "one.pth")
    save_file(STATE, tmp_path / "one.safetensors")
    for name in ("one.pth", "one.safetensors"):
        file = read_weights(tmp_path / name, setting="x")
        assert file.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert {key: value.tolist() for key, value in file.tensors.items()} == {
            key: value.tolist() for key, value in STATE.items()
        }


def test_half_precision_is_raised_and_optional_keys_are_left_out(tmp_path: Path) -> None:
    torch.save({"a": STATE["a"].half(), "counter": torch.tensor(3)}, tmp_path / "one.pth")
    found = read_weights(tmp_path / "one.pth", setting="x").match(
        {"a": (2, 3), "counter": ()}, setting="x", wanted="it", optional={"counter"}
    )
    assert set(found) == {"a"}
    assert found["a"].dtype == torch.float32


@pytest.mark.parametrize("name", ["one.pth", "one.safetensors"])
@pytest.mark.parametrize("data", [b"", b"no weights at all", b"\x80\x02}q\x00.", bytes(200)])
def test_what_holds_no_tensors_is_refused_in_one_sentence(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(BackboneError, match=r"^measure\.x: .*one\.\w+ is no ") as caught:
        read_weights(path, setting="measure.x").match({"a": (1,)}, setting="measure.x", wanted="no such file")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [[1, 2], {"a": 1.0}, {"model": STATE}, torch.ones(2)])
def test_a_file_of_torch_that_is_no_state_dict_is_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "one.pth")
    with pytest.raises(BackboneError, match="is no state dict; it must hold tensors by name and nothing else"):
        read_weights(tmp_path / "one.pth", setting="x")


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save(Path("x"), tmp_path / "one.pth")
    with pytest.raises(BackboneError, match="is no file of tensors"):
        read_weights(tmp_path / "one.pth", setting="x")


def test_what_differs_from_the_layout_is_named(tmp_path: Path) -> None:
    torch.save({**STATE, "extra": torch.ones(1)}, tmp_path / "one.pth")
    file = read_weights(tmp_path / "one.pth", setting="measure.x")
    with pytest.raises(BackboneError) as caught:
        file.match({"a": (2, 4), "b": (4,), "c": (1,)}, setting="measure.x", wanted="the right file")
    assert str(caught.value) == (
        f"measure.x: {tmp_path / 'one.pth'} is not the right file; keys are 1 missing (c), 1 not expected (extra), "
        "1 of another size (a [2, 3] instead of [2, 4])"
    )


def test_a_missing_file_and_a_folder_say_that_nothing_is_downloaded(tmp_path: Path) -> None:
    for path, found in ((tmp_path / "none.pth", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(BackboneError, match=rf"{found}; name a local weight file \(none is downloaded\)"):
            read_weights(path, setting="x")


def test_a_folder_must_hold_one_of_both_formats(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"of one\.safetensors and one\.pth the folder .* holds neither"):
        weights_in(tmp_path, "one", setting="x")
    torch.save(STATE, tmp_path / "one.pth")
    assert weights_in(tmp_path, "one", setting="x").path.name == "one.pth"
    save_file(STATE, tmp_path / "one.safetensors")
    with pytest.raises(BackboneError, match="holds both"):
        weights_in(tmp_path, "one", setting="x")
