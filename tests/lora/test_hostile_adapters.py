"""Whatever an adapter file or a folder holds: it is read, or refused in a sentence. No traceback, no endless wait.

The generator makes every kind of damage from one good file. A sample runs by default; `-m hostile` runs all.
"""

import json
import os
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from loraloom.lora.files import read_adapter
from loraloom.protocols.model import DiffusionModel
from loraloom.utils.errors import UserError

from .foreign import LINEAR, kohya, random, write
from .test_exports import opened

Make = Callable[[Path], Path]
"""Writes a hostile input into a folder and returns what the user would point to."""

A, B = f"unet.{LINEAR}.lora_A.weight", f"unet.{LINEAR}.lora_B.weight"
STEM = kohya(LINEAR)
RECORD: dict[str, Any] = {"format": "loraloom.adapter.1", "rank": 2, "alpha": 4.0, "size": "64x64", "step": 3}


def good() -> dict[str, Tensor]:
    return {A: random(2, 32), B: random(32, 2)}


def with_tensor(key: str, value: Tensor) -> Make:
    return lambda folder: write(folder / "x.safetensors", {**good(), key: value})


def with_kohya(**roles: Tensor) -> Make:
    made = {"lora_down.weight": random(2, 32), "lora_up.weight": random(32, 2)}
    made |= {role.replace("__", "."): value for role, value in roles.items()}
    return lambda folder: write(folder / "x.safetensors", {f"{STEM}.{role}": value for role, value in made.items()})


def with_metadata(key: str, text: str) -> Make:
    return lambda folder: write(folder / "x.safetensors", good(), {key: text})


def with_record(**fields: Any) -> Make:
    return with_metadata("loraloom", json.dumps({**RECORD, **fields}))


def raw(header: bytes, data: bytes = b"", length: int | None = None) -> Make:
    def make(folder: Path) -> Path:
        path = folder / "x.safetensors"
        path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
        return path

    return make


def entry(header: Mapping[str, Any], data: bytes = b"") -> Make:
    return raw(json.dumps(header).encode(), data)


def sparse(header: Mapping[str, Any], size: int) -> Make:
    """A file that claims `size` bytes of weights and takes none on the disk."""

    def make(folder: Path) -> Path:
        path = entry(header)(folder)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size + size)
        return path

    return make


def pair_header(rank: int, into: int = 32, out: int = 32) -> dict[str, Any]:
    first, second = 4 * rank * into, 4 * rank * out
    return {
        A: {"dtype": "F32", "shape": [rank, into], "data_offsets": [0, first]},
        B: {"dtype": "F32", "shape": [out, rank], "data_offsets": [first, first + second]},
    }


def tensors() -> Iterator[tuple[str, Make]]:
    """Weights that are no weights."""
    for dtype in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool, torch.complex64):
        yield f"a weight of {dtype}", with_tensor(A, torch.ones(2, 32, dtype=dtype))
    shapes = [(), (1,), (0,), (64,), (0, 32), (2, 0), (2, 31), (32, 2), (3, 32), (2, 32, 1),
        (1, 2, 32), (2, 8, 2, 2), (2, 32, 3, 3),
              (1,) * 8]  # fmt: skip
    for shape in shapes:
        yield f"A of shape {shape}", with_tensor(A, torch.ones(shape))
        yield f"down of shape {shape}", with_kohya(lora_down__weight=torch.ones(shape))
        for role in ("lokr_w1", "diff", "lora_mid.weight", "dora_scale"):
            yield f"{role} of shape {shape} beside", with_kohya(**{role.replace(".", "__"): torch.ones(shape)})
    for name, value in (("NaN", torch.nan), ("infinity", torch.inf), ("-infinity", -torch.inf)):
        yield f"{name} in a weight", with_tensor(A, torch.full((2, 32), value))
        yield f"{name} in half precision", with_tensor(B, torch.full((32, 2), value, dtype=torch.float16))
    yield "beyond float32", with_tensor(A, torch.full((2, 32), 1e300, dtype=torch.float64))
    yield (
        "a product beyond float32",
        with_kohya(lora_down__weight=torch.full((2, 32), 3e38), lora_up__weight=torch.full((32, 2), 3e38)),
    )
    yield "NaN in 8 bits", with_tensor(A, torch.full((2, 32), torch.nan).to(torch.float8_e4m3fn))
    alphas = [torch.ones(2), torch.ones(0), torch.ones(1, 2), torch.tensor(True),
        torch.tensor(1j), torch.tensor(-4.0), torch.tensor(0),
              torch.tensor(-3), torch.tensor(torch.nan), torch.tensor(torch.inf), torch.tensor(1e30)]  # fmt: skip
    for alpha in alphas:
        yield f"alpha {alpha.dtype} {alpha.tolist()}", with_kohya(alpha=alpha)
    for size in (2, 31, 33, 64):
        yield f"{size} norms", with_kohya(dora_scale=torch.ones(size, 1))
        yield f"{size} norms of peft", with_tensor(f"unet.{LINEAR}.lora_magnitude_vector", torch.ones(size))


def headers() -> Iterator[tuple[str, Make]]:
    """Headers that lie."""
    for length in (0, 1, 2, 1 << 20, 1 << 40, (1 << 64) - 1):
        yield f"a header length of {length}", raw(b"{}", b"1234", length)
    for text in (b"", b"{", b"[]", b"null", b"3", b'"x"', b"{\xff}", b'{"a": NaN}',
        b'{"a":' * 5000, b"[" * 5000, b'{"a": 1e999}',
                 b'{"a": ' + b"9" * 5000 + b"}", b'{"\\ud800": 1}'):  # fmt: skip
        yield f"the header {text[:20]!r} of {len(text)} bytes", raw(text)
    whole = {"dtype": "F32", "shape": [2, 32], "data_offsets": [0, 256]}
    changes: list[tuple[str, Any]] = [
        ("dtype", "F31"), ("dtype", 32), ("dtype", None), ("dtype", ["F32"]), ("shape", "2x32"), ("shape", [2.0, 32]),
        ("shape", [True, 32]), ("shape", [-2, -32]), ("shape", [2, 33]), ("shape", [1 << 62, 1 << 62]), ("shape", [1] * 100),
        ("shape", {}), ("shape", [[2, 32]]), ("data_offsets", [256, 0]), ("data_offsets",
            [-256, 0]), ("data_offsets", [0, 255]),
        ("data_offsets", [0]), ("data_offsets", [0, 256, 512]), ("data_offsets", ["0",
            "256"]), ("data_offsets", [0, 1 << 62]),
        ("data_offsets", [8, 264]), ("data_offsets", None), ("more", 1),
    ]  # fmt: skip
    for field, value in changes:
        yield f"{field} = {str(value)[:30]}", entry({A: {**whole, field: value}}, b"\0" * 256)
    for value in (None, 3, "x", [], {}, {"dtype": "F32"}):
        yield f"a tensor that is {value}", entry({A: value})
    yield "two tensors in one place", entry({A: whole, B: {**whole, "shape": [32, 2]}}, b"\0" * 256)
    yield "bytes that belong to no tensor", entry({A: whole}, b"\0" * 300)
    for value in (3, [], "x", {"a": 1}, {"a": None}, {"a": {"b": "c"}}):
        yield f"metadata that is {value}", entry({"__metadata__": value, A: whole}, b"\0" * 256)
    yield "no tensor", entry({})
    yield (
        "20,001 tensors",
        entry({str(n): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(20_001)}),
    )
    yield "a name of a megabyte", entry({"a" * (1 << 20): whole}, b"\0" * 256)
    yield "a name that patterns would search for hours", entry({"norm" * (1 << 17): whole}, b"\0" * 256)
    yield "a name of control characters", entry({"\x1b[2J\r\n\0": whole}, b"\0" * 256)
    for rank in (10**7, 10**9, 10**12):
        empty = {"dtype": "F32", "shape": [rank, 0], "data_offsets": [0, 0]}
        yield f"rank {rank} in an empty tensor", entry({A: empty, B: {**empty, "shape": [0, rank]}})
        yield (
            f"rank {rank} with a width of 0",
            entry({A: empty, B: {**empty, "shape": [32, rank], "data_offsets": [0, 0]}}),
        )
    if sys.platform != "win32":
        yield "rank 10^7, sparse", sparse(pair_header(10**7), 4 * 64 * 10**7)
        yield "rank 4, a width of 10^9, sparse", sparse(pair_header(4, 10**9), 16 * (10**9 + 32))
        huge = {"dtype": "F32", "shape": [1 << 20, 1 << 20], "data_offsets": [0, 1 << 42]}
        yield "4 TiB of a full difference, sparse", sparse({f"{STEM}.diff": huge}, 1 << 42)


def records() -> Iterator[tuple[str, Make]]:
    """What the file says of itself, in other types than it should."""
    wrong: dict[str, list[Any]] = {
        "alpha": ["8", [8], {}, True, -1, 0, 1e30], "rank": ["2", 2.5, True, 0, -2, 10**30, [2]],
        "size": ["axb", "64", "0x64", "64x0", "64x64x64", "999999x64", "-1x64", 64, [64, 64], "٦٤x٦٤", "64x64\n"],
        "step": ["3", -1, 2.5, True, None], "format": [3, None, ["x"]], "domain": [3, None, ["freetext"], {}],
        "prompt_method": [3, None, ["attention"]], "base": [[], "x", 3, {"source": ["x"]}, {"source": 3}, {"source": None},
                                                            {"source": "x", "config": 3}, {"source": "x", "revision": {}},
                                                            {"source": "x", "prediction_type": "flow"}],
        "base_sha256": [3, [], {}], "trigger": [3, []], "family": [3, []],
    }  # fmt: skip
    for field, values in wrong.items():
        for value in values:
            yield f"record.{field} = {value!r}", with_record(**{field: value})
    texts = ["", "x", "[1]", "3", "null", '"x"', "{", "[" * 10_000, '{"a":' * 10_000, '{"alpha": 1e999}', '{"alpha": NaN}',
             '{"alpha": ' + "9" * 5000 + "}", '{"trigger": "\\ud800"}']  # fmt: skip
    for key in ("loraloom", "lora_adapter_metadata"):
        for text in texts:
            yield f"{key}: {text[:20]!r} of {len(text)}", with_metadata(key, text)
    for text in ("x", "-1", "nan", "[1]", "9" * 5000):
        yield f"ss_network_alpha {text[:20]}", with_metadata("ss_network_alpha", text)


def folders() -> Iterator[tuple[str, Make]]:
    """Run folders that are none, and things that are no files."""

    def with_config(text: bytes) -> Make:
        def make(folder: Path) -> Path:
            (folder / "adapter_config.json").write_bytes(text)
            write(
                folder / "adapter_model.safetensors",
                {key.replace("unet", "base_model.model", 1): v for key, v in good().items()},
            )
            return folder

        return make

    configs = [b"", b"x", b"[]", b"3", b"\xff\xfe", b"[" * 10_000, b'{"r": "2"}', b'{"r": 0}',
        b'{"lora_alpha": [3]}', b'{"r": 3}',
               b'{"peft_type": "BOFT"}', b'{"peft_type": 3}', b'{"alpha_pattern": []}',
                   b'{"x": 1}', b" " * (2 << 20)]  # fmt: skip
    for text in configs:
        yield f"adapter_config.json {text[:20]!r}", with_config(text)

    def made(*build: Callable[[Path], object], point: str = "") -> Make:
        def make(folder: Path) -> Path:
            for one in build:
                one(folder)
            return folder / point if point else folder

        return make

    def file(name: str, data: bytes) -> Callable[[Path], object]:
        def build(folder: Path) -> None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)

        return build

    whole = save(good(), {"loraloom": json.dumps(RECORD)})
    yield "an empty folder", made()
    yield "a folder as the file", made(lambda folder: (folder / "adapter.safetensors").mkdir())
    yield "no such place", made(point="gone")
    yield "a name no file can have", made(point="\0")
    yield "two adapters", made(file("a.safetensors", whole), file("b.safetensors", whole))
    for name in ("step_x", "step_", "step_-1", "step_1e3", "step_" + "9" * 200, "step_²"):
        yield f"the checkpoint {name[:20]}", made(file(f"checkpoints/{name}/adapter.safetensors", whole))
    for data in (b"", whole[:50], whole[:-9], b"PK\3\4"):
        yield f"a checkpoint of {len(data)} bytes", made(file("checkpoints/step_0000100/adapter.safetensors", data))
        yield (
            f"an adapter of {len(data)} bytes beside a checkpoint",
            made(file("adapter.safetensors", data), file("checkpoints/step_0000100/adapter.safetensors", whole)),
        )
        yield f"a file of {len(data)} bytes", made(file("x.safetensors", data), point="x.safetensors")
    yield "a checkpoint that is a file", made(file("checkpoints/step_0000100", b""))
    if hasattr(os, "mkfifo"):
        yield "a FIFO", made(lambda folder: os.mkfifo(folder / "x.safetensors"), point="x.safetensors")
        yield "a FIFO in a run", made(lambda folder: os.mkfifo(folder / "adapter.safetensors"))
        yield "a FIFO as the config", lambda folder: (os.mkfifo(folder / "adapter_config.json"), with_peft(folder))[1]
        yield (
            "a loop of links",
            made(lambda folder: (folder / "x.safetensors").symlink_to("x.safetensors"), point="x.safetensors"),
        )
        yield (
            "a loop of links in a run",
            made(lambda folder: (folder / "adapter.safetensors").symlink_to("adapter.safetensors")),
        )
        yield (
            "a link to nothing",
            made(lambda folder: (folder / "x.safetensors").symlink_to("gone"), point="x.safetensors"),
        )
        yield (
            "a link to a device",
            made(lambda folder: (folder / "x.safetensors").symlink_to("/dev/zero"), point="x.safetensors"),
        )


def with_peft(folder: Path) -> Path:
    write(
        folder / "adapter_model.safetensors",
        {key.replace("unet", "base_model.model", 1): v for key, v in good().items()},
    )
    return folder


KINDS: list[tuple[str, Make]] = [*tensors(), *headers(), *records(), *folders()]
SAMPLE = 4
"""One in this many runs by default."""


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> DiffusionModel:
    return opened(tiny_model)


def test_the_kinds_are_many_and_each_has_its_name() -> None:
    assert len({name for name, _ in KINDS}) == len(KINDS) > 250


def test_the_good_file_is_read(model: DiffusionModel, tmp_path: Path) -> None:
    """Every hostile input differs from this one in one thing."""
    path = write(tmp_path / "x.safetensors", good(), {"loraloom": json.dumps(RECORD)})
    assert [layer.module for layer in read_adapter(path).updates(model).layers] == [LINEAR]


@pytest.mark.parametrize(
    ("name", "make"),
    [
        pytest.param(
            name, make, marks=[] if number % SAMPLE == 0 else [pytest.mark.hostile, pytest.mark.slow], id=name[:60]
        )
        for number, (name, make) in enumerate(KINDS)
    ],
)
def test_a_hostile_adapter_is_refused_in_a_sentence(
    model: DiffusionModel, tmp_path: Path, name: str, make: Make
) -> None:
    place = make(tmp_path)
    with pytest.raises(UserError) as error:
        read_adapter(place).updates(model)
    text = str(error.value)
    assert 0 < len(text) < 1500, text
    assert not any(ord(letter) < 32 and letter != "\n" for letter in text), ascii(text)


def test_a_damaged_file_of_a_run_here_is_not_to_be_downloaded_again(tmp_path: Path) -> None:
    """A truncated checkpoint got "download it again", from where nobody knows."""
    steps = [tmp_path / "run" / "checkpoints" / f"step_000000{number}" for number in (3, 6)]
    for folder in (*steps, tmp_path / "run", tmp_path / "theirs"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter.safetensors").write_bytes(b"gone")
    (tmp_path / "run" / "run.yaml").touch()
    for place, advice in (
        (steps[1], "name another checkpoint, such as step_0000003"),
        (tmp_path / "run" / "adapter.safetensors", "start the same `train` command again"),
        (tmp_path / "theirs", "download it again"),
    ):
        with pytest.raises(UserError, match="is not a whole safetensors file") as error:
            read_adapter(place)
        assert advice in (error.value.fix or "")
