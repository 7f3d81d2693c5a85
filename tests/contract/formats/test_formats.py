"""What every folder layout promises, whichever it is."""

import io
import itertools
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from loraloom import plugins
from loraloom.config.extending import options_of
from loraloom.config.prepare import PrepareConfig
from loraloom.prepare.detect import choose_format, format_options
from loraloom.prepare.leftovers import find_leftovers
from loraloom.prepare.run import prepare
from loraloom.protocols.contracts import FormatContract
from loraloom.protocols.data import Format, PackedImage
from loraloom.utils.errors import UserError
from tests.support.images import drawn, encoded, save

OPTIONS = format_options(PrepareConfig())
IDS = ["a", "b", "sub/c", "sub/deep/d"]
every_format = pytest.mark.parametrize("name", plugins.names("formats"))


@pytest.fixture(autouse=True)
def _installed(name: str) -> None:
    """Skip without the libraries of an extra."""
    for module in plugins.load_contract("formats", name).needs:
        pytest.importorskip(module, reason=f"the format {name} is tested with {module}")


def unpacked(name: str) -> None:
    """Skip where images are no files."""
    if plugins.load_contract("formats", name).packed:
        pytest.skip("its images lie inside larger files")


def write(name: str, folder: Path, captions: Mapping[str, str]) -> Path:
    """The format's own example of a folder with these captions by id."""
    contract = plugins.load_contract("formats", name)
    assert isinstance(contract, FormatContract)
    seeds = itertools.count()

    def save_image(path: Path) -> None:
        save(drawn(next(seeds), 8, 8), path)

    folder.mkdir(parents=True)
    contract.write(folder, captions, save_image)
    return folder


def made(name: str, root: Path) -> tuple[Format, Path]:
    return plugins.load("formats", name), write(name, root, {item_id: f" caption of {item_id}\n" for item_id in IDS})


@every_format
def test_it_is_named_as_its_file_and_says_what_it_expects(name: str) -> None:
    layout: Format = plugins.load("formats", name)
    assert layout.name == name
    assert layout.expects
    assert "\n" not in layout.expects


@every_format
def test_it_recognises_its_own_layout_with_a_reason_that_has_a_number(name: str, tmp_path: Path) -> None:
    layout, root = made(name, tmp_path / "x")
    reason = layout.sniff(root, OPTIONS)
    assert reason is not None
    assert re.search(r"\b4\b", reason)


@every_format
def test_its_own_settings_are_all_that_it_needs(name: str, tmp_path: Path) -> None:
    layout, root = made(name, tmp_path / "x")
    own = options_of(PrepareConfig(), [layout])
    assert layout.sniff(root, own) == layout.sniff(root, OPTIONS)
    assert list(layout.read(root, own)) == list(layout.read(root, OPTIONS))


@every_format
@given(caption=st.text(st.characters(codec="utf-8", exclude_characters="\0\r\ufeff"), min_size=1, max_size=30))
@settings(max_examples=15, deadline=None)
def test_a_caption_of_any_letters_is_found_again_exactly(name: str, caption: str) -> None:
    with TemporaryDirectory() as folder:
        root = write(name, Path(folder) / "x", {"a": caption})
        assert [item.caption for item in plugins.load("formats", name).read(root, OPTIONS)] == [caption]


@every_format
def test_prepare_makes_a_dataset_of_its_layout(name: str, tmp_path: Path) -> None:
    _, root = made(name, tmp_path / "x")
    config = PrepareConfig(size=16, bucket_step=8, min_size=1, num_workers=1)
    report = prepare(root, tmp_path / "out", config, console=lambda line: None)
    assert report.manifest.info["format"] == name
    assert [example.caption for example in report.manifest.examples] == [f"caption of {item_id}" for item_id in IDS]


@every_format
def test_auto_chooses_it_for_its_own_layout(name: str, tmp_path: Path) -> None:
    _, root = made(name, tmp_path / "x")
    assert choose_format(root, "auto", OPTIONS).format.name == name


@every_format
def test_it_reads_every_image_in_id_order_with_its_caption_exactly_as_found(name: str, tmp_path: Path) -> None:
    layout, root = made(name, tmp_path / "x")
    items = list(layout.read(root, OPTIONS))
    assert [item.id for item in items] == IDS
    assert [item.caption for item in items] == [f" caption of {item_id}\n" for item_id in IDS]
    assert all(item.image.is_file() and item.problem is None for item in items)


@every_format
def test_it_names_the_file_that_each_caption_comes_from(name: str, tmp_path: Path) -> None:
    """By that `prepare` tells what nobody reads, and lists it."""
    layout, root = made(name, tmp_path / "x")
    items = list(layout.read(root, OPTIONS))
    assert all(item.source is not None and item.source.is_file() and not item.notes for item in items)
    assert not find_leftovers(root, items, name).problems


@every_format
def test_it_recognises_nothing_in_an_empty_folder(name: str, tmp_path: Path) -> None:
    assert plugins.load("formats", name).sniff(tmp_path, OPTIONS) is None


@every_format
def test_it_opens_no_image(name: str, tmp_path: Path) -> None:
    unpacked(name)
    layout, root = made(name, tmp_path / "x")
    for path in root.rglob("*.png"):
        path.write_bytes(b"not an image")
    assert len(list(layout.read(root, OPTIONS))) == len(IDS)


@every_format
@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_link_out_of_the_folder_is_a_problem_and_one_inside_is_a_image(name: str, tmp_path: Path) -> None:
    unpacked(name)
    layout, root = made(name, tmp_path / "x")
    secret = save(drawn(9, 8, 8), tmp_path / "secret.png")
    for path in root.rglob("a.png"):
        path.unlink()
        path.symlink_to(secret)
    (inside,) = root.rglob("b.png")
    inside.rename(inside.with_name("real.bin"))
    inside.symlink_to(inside.with_name("real.bin"))
    items = {item.id: item for item in layout.read(root, OPTIONS)}
    assert "leads out of the folder" in (items["a"].problem or "")
    assert items["b"].problem is None


@every_format
def test_two_images_with_one_id_are_not_both_used(name: str, tmp_path: Path) -> None:
    unpacked(name)
    layout, root = made(name, tmp_path / "x")
    (first,) = root.rglob("a.png")
    save(drawn(5, 8, 8), first.with_suffix(".jpg"))
    used = [item.id for item in layout.read(root, OPTIONS) if item.problem is None]
    assert used == IDS


@every_format
def test_an_image_inside_a_larger_file_is_read_in_any_process_and_only_up_to_a_limit(name: str, tmp_path: Path) -> None:
    layout, root = made(name, tmp_path / "x")
    if not plugins.load_contract("formats", name).packed:
        pytest.skip("its images are files")
    for number, item in enumerate(layout.read(root, OPTIONS)):
        assert item.data is not None
        again = pickle.loads(pickle.dumps(item.data))
        assert again.read(1 << 20) == item.data.read(1 << 20)
        with Image.open(io.BytesIO(again.read(1 << 20))) as image:
            assert image.tobytes() == drawn(number, 8, 8).tobytes()
        with pytest.raises(UserError):
            item.data.read(10)


@every_format
def test_what_is_exported_is_read_back_with_all_its_captions(name: str, tmp_path: Path) -> None:
    layout = plugins.load("formats", name)
    if not hasattr(layout, "write"):
        pytest.skip("datasets are not exported to it")
    images = [
        PackedImage(id=item_id, data=encoded(drawn(seed, 8, 8), "PNG"), captions=captions, split=split)
        for seed, (item_id, captions, split) in enumerate(
            [
                ("a", ("one", "two"), "train"),
                ("sub/b", ("only",), "train"),
                ("sub/c", ("third",), "train"),
                ("d", ("held out",), "validation"),
            ]
        )
    ]
    (tmp_path / "out").mkdir()
    assert layout.write(tmp_path / "out", iter(images), 2) == []
    items = list(layout.read(tmp_path / "out", OPTIONS))
    assert not [item.problem for item in items if item.problem]
    found = {tuple(item.id.split("/")[-1:]): (item.caption, *item.more_captions) for item in items}
    assert found == {tuple(image.id.split("/")[-1:]): image.captions for image in images}
    for item in items:
        data = item.data.read(1 << 20) if item.data else item.image.read_bytes()
        assert data == next(image.data for image in images if image.id.split("/")[-1] == item.id.split("/")[-1])
