"""Datasets inside larger files: shards and tables in and out, with what the library `datasets` makes of them."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from loraloom.config.prepare import PrepareConfig
from loraloom.config.reading import read_settings
from loraloom.data.exporting import export_dataset, writable_formats
from loraloom.data.manifest import Manifest, read_manifest
from loraloom.prepare import fetching
from loraloom.prepare.fetching import fetch
from loraloom.prepare.run import PrepareReport, prepare
from loraloom.utils.errors import UserError
from tests.support.images import drawn, encoded, folder_of


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A prepared dataset of twelve images, some held out."""
    root = tmp_path_factory.mktemp("packed")
    folder_of(root / "raw", 12)
    config = PrepareConfig(size=32, bucket_step=8, min_size=16, num_workers=1, validation_share=0.25)
    return prepare(root / "raw", root / "dataset", config, console=lambda line: None).manifest


def prepared(source: Path, out: Path, **values: Any) -> tuple[PrepareReport, list[str]]:
    lines: list[str] = []
    values = {"size": 32, "bucket_step": 8, "min_size": 16, "num_workers": 1, **values}
    return prepare(source, out, read_settings(PrepareConfig, values=values), console=lines.append), lines


def shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


PNG = encoded(drawn(1, 40, 30), "PNG")


@pytest.mark.parametrize("name", ["webdataset", "parquet", "arrow_dataset", "imagefolder"])
def test_a_dataset_that_was_exported_can_be_prepared_again_with_equal_pixels(
    name: str, dataset: Manifest, tmp_path: Path
) -> None:
    if name in {"parquet", "arrow_dataset"}:
        pytest.importorskip("pyarrow", reason="tables need pyarrow, the extra `tables`")
    assert name in writable_formats()
    assert export_dataset(dataset, tmp_path / "out", name, 5) == []
    report, lines = prepared(tmp_path / "out", tmp_path / "again")
    assert name in lines[0]
    assert not report.problems
    by_caption = {example.caption: example for example in report.manifest.examples}
    for example in dataset.examples:
        again = by_caption[example.caption]
        with Image.open(dataset.path(example)) as one, Image.open(report.manifest.path(again)) as two:
            assert one.tobytes() == two.tobytes()
    with pytest.raises(UserError, match="there already"):
        export_dataset(dataset, tmp_path / "out", name, 5)


def test_preparing_shards_again_keeps_what_has_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "raw/000.tar"
    shard(path, {"a.png": PNG, "a.txt": b"one", "b.png": encoded(drawn(2, 40, 30), "PNG"), "b.txt": b"two"})
    prepared(tmp_path / "raw", tmp_path / "out")
    report, _ = prepared(tmp_path / "raw", tmp_path / "out")
    assert report.num_reused == 2
    shard(path, {"a.png": PNG, "a.txt": b"one", "b.png": encoded(drawn(3, 40, 30), "PNG"), "b.txt": b"two"})
    report, _ = prepared(tmp_path / "raw", tmp_path / "out")
    assert report.num_reused == 1


def test_what_a_shard_has_that_cannot_be_used_is_listed_with_its_reason(tmp_path: Path) -> None:
    members = {
        "a.png": PNG,
        "a.json": json.dumps({"text": "from json", "captions": ["from json", "second"]}).encode(),
        "no_image.txt": b"lost words",
        "twice.png": PNG,
        "twice.jpg": PNG,
        "latin.png": PNG,
        "latin.txt": "\xe9t\xe9".encode("latin-1"),
        "broken.png": PNG[:50],
        "../out.png": PNG,
        "/abs.png": PNG,
        "bad.png": PNG,
        "bad.json": b"{not json",
    }
    shard(tmp_path / "raw/000.tar", members)
    (tmp_path / "raw/001.tar").write_bytes(b"not a tar at all" * 100)
    (tmp_path / "raw/002.tar.gz").write_bytes(b"\x1f\x8b")
    report, _ = prepared(tmp_path / "raw", tmp_path / "out")
    (example,) = report.manifest.examples
    assert example.captions == ("from json", "second")
    reasons = {problem.file.rpartition(": ")[2]: problem.reason for problem in report.problems}
    assert "without an image" in reasons["no_image"]
    assert "two images of this key" in reasons["twice"]
    assert "is not UTF-8" in reasons["latin"]
    assert "truncated" in reasons["broken"] or "broken" in reasons["broken"]
    assert "cannot be read to its end" in reasons["001.tar"]
    assert "archive" in reasons["002.tar.gz"]
    assert sum("leads out of the folder" in reason or "absolute path" in reason for reason in reasons.values()) == 2
    assert not (tmp_path / "out.png").exists()


def test_a_shard_that_was_cut_short_loses_its_last_images_only(tmp_path: Path) -> None:
    path = shard(tmp_path / "raw/000.tar", {f"{k}.png": encoded(drawn(k, 40, 30), "PNG") for k in range(4)})
    path.write_bytes(path.read_bytes()[:-9000])
    report, _ = prepared(tmp_path / "raw", tmp_path / "out", caption_template="a thing")
    assert report.manifest.examples[0].id == "0"
    assert len(report.manifest.examples) < 4
    assert report.problems


def test_keys_that_two_shards_share_are_both_used(tmp_path: Path) -> None:
    shard(tmp_path / "raw/000.tar", {"a.png": PNG, "a.txt": b"one"})
    shard(tmp_path / "raw/001.tar", {"a.png": encoded(drawn(2, 40, 30), "PNG"), "a.txt": b"two"})
    report, _ = prepared(tmp_path / "raw", tmp_path / "out")
    assert {example.id: example.caption for example in report.manifest.examples} == {"000/a": "one", "001/a": "two"}


def test_without_pyarrow_a_table_is_an_error_that_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loraloom.extensions.formats import _arrow

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(_arrow, "import_module", missing)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="pyarrow") as error:
        prepared(tmp_path / "raw", tmp_path / "out")
    assert "loraloom[tables]" in str(error.value)


def test_a_table_that_is_no_table_and_columns_that_are_not_there_are_errors(dataset: Manifest, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="tables need pyarrow, the extra `tables`")
    export_dataset(dataset, tmp_path / "out", "parquet", 100)
    with pytest.raises(UserError, match="no column of this name"):
        prepared(tmp_path / "out", tmp_path / "one", image_column="imag")
    with pytest.raises(UserError, match="name another column with --caption-column"):
        prepared(tmp_path / "out", tmp_path / "two", caption_column="words", caption_template="x")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.parquet").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(UserError):
        prepared(tmp_path / "raw", tmp_path / "three")


@pytest.mark.parametrize("name", ["parquet", "arrow_dataset", "webdataset"])
def test_the_library_datasets_reads_what_we_export(name: str, dataset: Manifest, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="tables need pyarrow, the extra `tables`")
    library = pytest.importorskip("datasets", reason="compared with the library datasets, the extra `tables`")
    out = tmp_path / "out"
    export_dataset(dataset, out, name, 5)
    if name == "arrow_dataset":
        read = library.load_from_disk(str(out))["train"]
    else:
        files = sorted(str(path) for path in out.iterdir() if "train" in path.name)
        read = library.load_dataset(name, data_files=files, split="train", streaming=True)
    key = "txt" if name == "webdataset" else "text"
    found = {row[key]: row["png" if name == "webdataset" else "image"] for row in read}
    assert set(found) == {example.caption for example in dataset.split("train")}
    for example in dataset.split("train"):
        with Image.open(dataset.path(example)) as image:
            assert found[example.caption].convert("RGB").tobytes() == image.convert("RGB").tobytes()


def test_a_dataset_is_fetched_image_by_image_and_an_interrupted_fetch_continues(
    dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets", reason="fetching needs the library datasets, the extra `tables`")
    export_dataset(dataset, tmp_path / "hub", "parquet", 4)
    real, taken = fetching._take, list[int]()

    def stopping(out: Path, table: Any, number: int, image: Any, caption: Any) -> bool:
        taken.append(number)
        if len(taken) == 5:
            raise KeyboardInterrupt
        return real(out, table, number, image, caption)

    monkeypatch.setattr(fetching, "_take", stopping)
    monkeypatch.setattr(fetching, "_SAVE_EVERY", 2)
    with pytest.raises(KeyboardInterrupt):
        fetch(str(tmp_path / "hub"), tmp_path / "raw", console=lambda line: None)
    number = fetch(str(tmp_path / "hub"), tmp_path / "raw", console=lambda line: None)
    assert number == len(dataset.split("train"))
    assert taken == [*range(5), *range(4, number)]
    report, lines = prepared(tmp_path / "raw", tmp_path / "again")
    assert "imagefolder" in lines[0]
    assert {example.caption for example in report.manifest.examples} == {row.caption for row in dataset.split("train")}
    with pytest.raises(UserError, match="another fetch"):
        fetch(str(tmp_path / "hub"), tmp_path / "raw", split="validation", console=lambda line: None)
    with pytest.raises(UserError, match="did you mean 'text'"):
        fetch(str(tmp_path / "hub"), tmp_path / "other", caption_column="texts", console=lambda line: None)
    assert read_manifest(tmp_path / "again").examples
