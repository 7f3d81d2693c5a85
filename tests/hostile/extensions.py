"""What extensions read, whichever are installed: model folders of every family, captioning models, datasets of every format.

In: the name of an extension and a good folder, made by the extension itself. Out: artefacts for every file in it; the fields
of a JSON file are those that it has. A new family, captioner or format is tried without an edit here.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from loraloom import plugins
from loraloom.config.extending import options_of
from loraloom.config.prepare import PrepareConfig
from loraloom.config.reading import read_settings
from loraloom.models.loading import open_model
from loraloom.models.low_bits import LowBits
from loraloom.prepare.captioner_files import with_model
from loraloom.prepare.run import prepare
from loraloom.prompts.encoder import PromptEncoder
from loraloom.protocols.data import SourceItem
from loraloom.protocols.model import ImageGeometry, ModelSource
from loraloom.utils.image_bytes import RefusedError

from .kinds import Artefact, hard_links

MAX_SIDE = 1024
CASES_A_FILE = 15
MAX_DEPTH = 3


def fields_of(value: Any, depth: int = 0) -> Iterator[tuple[str | int, ...]]:
    """Paths of the values in a JSON value: every key, the first entry of a list, a few levels deep."""
    if depth == MAX_DEPTH:
        return
    inside = (
        list(value.items())[:60] if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    )
    for key, inner in inside:
        yield (key,)
        yield from ((key, *path) for path in fields_of(inner, depth + 1))


def artefacts_in(name: str, good: Path, read: Callable[[Path], object]) -> list[Artefact]:
    """An artefact for each file of a good folder."""
    found: list[Artefact] = []
    for path in sorted(path for path in good.rglob("*") if path.is_file()):
        value = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else None
        fields = list(fields_of(value)) if isinstance(value, dict) else []
        file = path.relative_to(good).as_posix()
        found.append(Artefact(f"{name}: {file}", partial(hard_links, good), file, read, fields, most=CASES_A_FILE))
    return found


# ------------------------------------------------------------------------------------------------------------ families


@torch.inference_mode()
def use_model(folder: Path) -> None:
    """Open a model of any family and ask each part once: what is accepted must also work."""
    model = open_model(ModelSource(location=str(folder)))
    side = 4 * model.info.size_multiple
    if side > MAX_SIDE:
        return  # it can be opened, and a size that it can draw is for the user to choose
    (text,) = PromptEncoder(text=model.text, domain=plugins.load("domains", "freetext")).encode(["a red house"])
    mean, _ = model.encode_images(torch.zeros(1, 3, side, side))
    latents = model.scale_latents(mean)
    place = ImageGeometry(original=(side, side), crop=(0, 0), target=(side, side))
    middle = model.info.schedule.timestep_t[model.info.schedule.num_timesteps // 2].float()[None]
    answer = model.predict(latents, middle, model.condition([text], [place], None))
    assert answer.shape == latents.shape
    assert model.decode_latents(latents).shape == (1, 3, side, side)
    assert model.info.schedule.signal_t.isfinite().all()


@torch.inference_mode()
def use_low_bits(kind: LowBits, folder: Path) -> None:
    """Open a model and read its denoiser into few bits."""
    model = open_model(ModelSource(location=str(folder)))
    model.modules.read_in_low_bits(model.info.denoiser.name, kind)
    model.modules.get(model.info.denoiser.name)


def family_artefacts(name: str, good: Path) -> list[Artefact]:
    """Every file of a model folder; the denoiser's files in low bits too. `good` is what the family's `build_tiny` made."""
    found = artefacts_in(name, good, use_model)
    part = open_model(ModelSource(location=str(good))).info.denoiser
    for kind in ("fp8", "nf4"):
        low = artefacts_in(f"{name} in {kind}", good, partial(use_low_bits, kind))
        found += [one for one in low if one.file.startswith(("unet/", "transformer/")) or part.name in one.file]
    return found


# ----------------------------------------------------------------------------------------------------------- captioners


def use_captioner(name: str, folder: Path) -> None:
    """Ask a captioner with a model for captions of two images of different sizes."""
    captioner: Any = plugins.load("captioners", name)
    config = read_settings(PrepareConfig, values={"caption_model": str(folder)})
    options = with_model(captioner, options_of(config, [captioner]))
    images = [Image.new("RGB", (20, 16), "red"), Image.new("RGB", (16, 40), "white")]
    items = [SourceItem(id=str(number), image=Path(f"{number}.png"), caption=None) for number in range(2)]
    try:
        for texts in captioner.caption_many(images, items, options, "sks", 1, 0):
            assert all(isinstance(text, str) and len(text) < 100_000 for text in texts)
            "".join(texts).encode()
    except RefusedError as error:
        assert len(str(error)) < 5000


def captioner_artefacts(name: str, good: Path) -> list[Artefact]:
    """Every file of the folder of a captioning model; `good` is what the contract's `build_tiny` made."""
    return artefacts_in(name, good, partial(use_captioner, name))


# -------------------------------------------------------------------------------------------------------------- formats


def build_source(name: str, folder: Path) -> None:
    """A folder of a format with three images, as its own contract writes it."""
    rng = np.random.default_rng(3)

    def save(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(path)

    folder.mkdir(parents=True)
    captions = {"a": "a red house", "b": 'one, "two"', "sub/c": "강아지"}
    plugins.load_contract("formats", name).write(folder, captions, save)


def use_source(folder: Path) -> None:
    """Prepare a folder of any format, in this process; a dataset that is made can be read."""
    out = folder.with_name(f"{folder.name} prepared")
    settings = PrepareConfig(size=64, bucket_step=16, min_size=16, validation_share=0, num_workers=1)
    said: list[str] = []
    prepare(folder, out, settings, console=said.append)
    assert all(len(line) < 5000 for line in said)
    "".join(said).encode()


def format_artefacts(name: str, good: Path) -> list[Artefact]:
    """Every kind of file of a folder of a format: one of each suffix."""
    seen: set[str] = set()
    found: list[Artefact] = []
    for one in artefacts_in(name, good, use_source):
        suffix = Path(one.file).suffix + Path(one.file).name * (Path(one.file).suffix in {".json", ".jsonl"})
        if suffix not in seen:
            seen.add(suffix)
            found.append(one)
    return found


# -------------------------------------------------------------------------------------- tables whose columns are odd


def png() -> bytes:
    """A small image."""
    from io import BytesIO

    data = BytesIO()
    Image.new("RGB", (40, 40), "blue").save(data, "PNG")
    return data.getvalue()


def odd_tables() -> Mapping[str, Callable[[], Any]]:
    """Tables of pyarrow by what is odd about them; each has one column that could be images."""
    import pyarrow as pa

    def table(image: Any, text: Any = None, **more: Any) -> Callable[[], Any]:
        def make() -> Any:
            images = image() if callable(image) else image
            columns = {"image": images}
            if text is not None:
                columns["text"] = text
            return pa.table({**columns, **more})

        return make

    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    good = [{"bytes": png(), "path": "a.png"}, {"bytes": png(), "path": "b.png"}]

    def structs(values: Any, kind: Any = struct) -> Any:
        return pa.array(values, kind)

    def with_path(path: str) -> Callable[[], Any]:
        return table(structs([{"bytes": png(), "path": path}] * 2), ["a", "b"])

    return {
        "no rows": table(structs([]), pa.array([], pa.string())),
        "images of null": table(structs([None, None]), ["a", "b"]),
        "bytes of null": table(structs([{"bytes": None, "path": "a.png"}] * 2), ["a", "b"]),
        "no bytes at all": table(structs([{"bytes": b"", "path": "a.png"}] * 2), ["a", "b"]),
        "bytes that are no image": table(structs([{"bytes": b"x" * 900, "path": "a.png"}] * 2), ["a", "b"]),
        "paths of null": table(structs([{"bytes": png(), "path": None}] * 2), ["a", "b"]),
        "bytes as text": table(
            structs([{"bytes": "x", "path": "a"}] * 2, pa.struct([("bytes", pa.string()), ("path", pa.string())]))
        ),
        "bytes as lists": table(
            structs(
                [{"bytes": [1, 2], "path": "a"}] * 2, pa.struct([("bytes", pa.list_(pa.int8())), ("path", pa.string())])
            )
        ),
        "paths as numbers": table(
            structs([{"bytes": png(), "path": 3}] * 2, pa.struct([("bytes", pa.binary()), ("path", pa.int64())])),
            ["a", "b"],
        ),
        "a struct without bytes": table(structs([{"path": "a"}] * 2, pa.struct([("path", pa.string())])), ["a", "b"]),
        "images as texts": table(["a.png", "b.png"], ["a", "b"]),
        "images as lists of numbers": table([[1, 2], [3]], ["a", "b"]),
        "images of fixed length": table(pa.array([png(), png()], pa.binary(len(png()))), ["a", "b"]),
        "images in a dictionary": table(pa.array([png(), png()]).dictionary_encode(), ["a", "b"]),
        "large binary": table(pa.array([png(), png()], pa.large_binary()), ["a", "b"]),
        "captions as numbers": table(structs(good), [1, 2]),
        "captions as bytes": table(structs(good), [b"a", b"\xff"]),
        "captions as lists": table(structs(good), [["a"], []]),
        "captions as structs": table(structs(good), [{"a": 1}, {"a": 2}]),
        "captions in a dictionary": table(structs(good), pa.array(["a", "b"]).dictionary_encode()),
        "captions of null": table(structs(good), pa.array([None, None], pa.string())),
        "captions without a type": table(structs(good), pa.nulls(2)),
        "captions of NUL and escape codes": table(structs(good), ["a\0b", "\x1b[2J"]),
        "a caption of five million letters": table(structs(good), ["x" * 5_000_000, "b"]),
        "more captions as numbers": table(structs(good), ["a", "b"], captions=[[1], [2]]),
        "more captions of null": table(
            structs(good), ["a", "b"], captions=pa.array([None, ["x", None]], pa.list_(pa.string()))
        ),
        "more captions, 100,000 of them": table(structs(good), ["a", "b"], captions=[["x"] * 100_000, []]),
        "more captions as a text": table(structs(good), ["a", "b"], captions=["a", "b"]),
        "the same path twice": with_path("a.png"),
        "a path outside": with_path("../../a.png"),
        "an absolute path": with_path("/etc/a.png"),
        "a path with NUL": with_path("a\0.png"),
        "a path of 5,000 letters": with_path("a" * 5000 + ".png"),
        "a path of a Windows device": with_path("CON.png"),
        "3,000 columns": table(structs(good), ["a", "b"], **{f"c{n}": [n, n] for n in range(3000)}),
        "two columns of images": table(structs(good), ["a", "b"], photo=structs(good)),
        "a column deep inside": table(structs(good), ["a", "b"], deep=[[[[[[1]]]]], [[[[[2]]]]]]),
        "a name of 100,000 letters": table(structs(good), ["a", "b"], **{"x" * 100_000: [1, 2]}),
        "300 MB of zeros, packed": table(lambda: pa.array([bytes(150 << 20), bytes(150 << 20)]), ["a", "b"]),
        "30,000 rows of null": table(lambda: structs([None] * 30_000), pa.nulls(30_000, pa.string())),
    }


def write_parquet(made: Any, folder: Path) -> None:
    """A table as a Parquet file."""
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(made, folder / "train-00000.parquet", compression="zstd")


def write_arrow(made: Any, folder: Path) -> None:
    """A table as `datasets` saves it to disk."""
    import pyarrow as pa

    folder.mkdir(parents=True, exist_ok=True)
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, made.schema) as out,
    ):
        out.write_table(made)
    (folder / "state.json").write_text("{}", encoding="utf-8")
    (folder / "dataset_info.json").write_text("{}", encoding="utf-8")


# ------------------------------------------------------------------------------- shards whose members are odd


def odd_shards() -> Mapping[str, Callable[[Path], None]]:
    """WebDataset shards by what is odd about their members."""
    import io
    import tarfile

    def shard(*members: tuple[str, bytes] | tarfile.TarInfo) -> Callable[[Path], None]:
        def make(folder: Path) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            with tarfile.open(folder / "000.tar", "w") as out:
                for member in (("ok.png", png()), ("ok.txt", b"fine"), *members):
                    if isinstance(member, tarfile.TarInfo):
                        out.addfile(member)
                        continue
                    info = tarfile.TarInfo(member[0])
                    info.size = len(member[1])
                    out.addfile(info, io.BytesIO(member[1]))

        return make

    def odd(kind: bytes, name: str = "a.png", link: str = "") -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        return info

    def claims(size: int, sparse: bool = False) -> Callable[[Path], None]:
        def make(folder: Path) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            info = tarfile.TarInfo("a.png")
            info.size = size
            if sparse:
                info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(size)}
            (folder / "000.tar").write_bytes(info.tobuf(tarfile.PAX_FORMAT) + png().ljust(1024, b"\0"))

        return make

    return {
        "a link": shard(odd(tarfile.SYMTYPE, link="/etc/passwd")),
        "a link to a member": shard(odd(tarfile.LNKTYPE, link="ok.png")),
        "a link to itself": shard(odd(tarfile.LNKTYPE, link="a.png")),
        "a text that is a link": shard(("a.png", png()), odd(tarfile.SYMTYPE, "a.txt", "/dev/zero")),
        "a device": shard(odd(tarfile.CHRTYPE)),
        "a FIFO": shard(odd(tarfile.FIFOTYPE)),
        "an unknown type": shard(odd(b"Z")),
        "a path outside": shard(("../../a.png", png())),
        "an absolute path": shard(("/a.png", png())),
        "a name of NUL": shard(("a\0b.png", png())),
        "a name of 5,000 letters": shard(("a" * 5000 + ".png", png())),
        "a name that is no UTF-8": shard(("caf\udce9.png", png()), ("caf\udce9.txt", b"x")),
        "an image without bytes": shard(("a.png", b"")),
        "an image that is a text": shard(("a.png", b"hello")),
        "the same member twice": shard(("a.png", png()), ("a.png", png())),
        "a caption of two megabytes": shard(("a.png", png()), ("a.txt", b"x" * (2 << 20))),
        "a caption that is no UTF-8": shard(("a.png", png()), ("a.txt", b"caf\xe9")),
        "a record that is a list": shard(("a.png", png()), ("a.json", b"[1]")),
        "a deep record": shard(("a.png", png()), ("a.json", b"[" * 50_000)),
        "a record with half a surrogate pair": shard(("a.png", png()), ("a.json", b'{"text": "\\ud800"}')),
        "a record of wrong types": shard(("a.png", png()), ("a.json", b'{"text": 3, "captions": {"a": 1}}')),
        "a record of many captions": shard(
            ("a.png", png()), ("a.json", json.dumps({"text": "a", "captions": ["x"] * 90_000}).encode())
        ),
        "a record with digits": shard(("a.png", png()), ("a.json", b'{"text": ' + b"9" * 5000 + b"}")),
        "8 GB by its header": claims(8 << 30),
        "a sparse member": claims(1 << 50, sparse=True),
        "a negative size": claims(-5),
        "5,000 members": shard(*((f"{number}.txt", b"x") for number in range(5000))),
    }
