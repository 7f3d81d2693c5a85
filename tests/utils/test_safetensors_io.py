"""Weights from outside are untrusted: nothing pickled is opened, nothing oversized is parsed, nothing poisoned is used."""

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from loraloom.utils.errors import UserError
from loraloom.utils.safetensors_io import check_safetensors, read_header, read_tensors, write_tensors


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin", "model.safetensors", "model.SAFETENSORS"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_are_refused_under_any_name_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, zipped: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Bomb()}, tmp_path / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="pickled"):
        read_tensors(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_a_header_of_many_tensors_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    header = json.dumps(
        {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(30_000)}
    ).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(UserError, match="too many tensors"):
        check_safetensors(tmp_path / "x.safetensors")


def test_an_oversized_header_is_refused(tmp_path: Path) -> None:
    length = 11 * 1024 * 1024
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", length) + b"{" + b" " * length)
    with pytest.raises(UserError, match="oversized header"):
        check_safetensors(tmp_path / "x.safetensors")


def test_good_files_are_read_whatever_the_length_of_their_header(tmp_path: Path) -> None:
    """Once, a header whose length ends in 0x80 was taken for a pickle: one good file in 32 was refused."""
    for length in range(256):
        write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1)}, {"note": "x" * length})
        assert read_tensors(tmp_path / "x.safetensors")[1] == {"note": "x" * length}


def test_nan_weights_are_named(tmp_path: Path) -> None:
    save_file({"good": torch.ones(2), "bad": torch.tensor([1.0, float("nan")])}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="tensor bad holds NaN"):
        read_tensors(tmp_path / "x.safetensors")


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_user_error_and_never_a_crash(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(data)
        with pytest.raises(UserError):
            read_tensors(path)


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", {"a": torch.randn(100)})
    data = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(data[:-10])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_tensors(tmp_path / "x.safetensors")


def test_a_header_says_dtype_shape_and_bytes_without_a_tensor_being_read(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(2, 3, dtype=torch.bfloat16)}, {"note": "x"})
    header = read_header(tmp_path / "x.safetensors")
    info = header.tensors["a"]
    assert (info.dtype, info.shape, info.num_bytes, header.metadata) == ("BF16", (2, 3), 12, {"note": "x"})


def test_a_tensor_whose_shape_and_bytes_disagree_is_named(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 30], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    with pytest.raises(UserError, match="tensor 'a' is not whole"):
        read_header(tmp_path / "x.safetensors")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_floats_of_8_bits_are_read_and_their_nan_is_found(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({"a": torch.tensor([1.0, 2.0]).to(dtype)}, tmp_path / "x.safetensors")
    assert read_tensors(tmp_path / "x.safetensors")[0]["a"].float().tolist() == [1.0, 2.0]
    save_file({"a": torch.tensor([1.0, float("nan")]).to(dtype)}, tmp_path / "y.safetensors")
    with pytest.raises(UserError, match="tensor a holds NaN"):
        read_tensors(tmp_path / "y.safetensors")
