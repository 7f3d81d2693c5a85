"""What `prepare` repairs: crops that find the subject, duplicates, class folders, repeats, weights, several sizes."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from loraloom.config.inspect import InspectConfig
from loraloom.config.prepare import PrepareConfig
from loraloom.data.manifest import read_manifest
from loraloom.prepare.class_folders import class_folder, class_folders
from loraloom.prepare.images import Decoded, ImageSettings, choose_crop
from loraloom.prepare.inspection.run import inspect_folder
from loraloom.prepare.run import PrepareReport, prepare
from loraloom.utils.atomic_files import sha256_file
from loraloom.utils.errors import UserError
from loraloom.utils.saliency import best_start, saliency_map, subject_box
from tests.support.images import drawn, save


def run(source: Path, out: Path, lines: list[str] | None = None, **changes: object) -> PrepareReport:
    values = {"size": 64, "bucket_step": 16, "min_size": 16, "num_workers": 1, "validation_share": 0.0, **changes}
    return prepare(source, out, PrepareConfig(**values), console=(lines if lines is not None else []).append)


def with_spot(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    """A grey, slightly noisy image with one coloured, structured thing in it."""
    rng = np.random.default_rng(1)
    pixels = 120 + rng.normal(0, 4, (height, width, 3))
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = rng.integers(0, 255, (bottom - top, right - left, 3)) * [1.0, 0.3, 0.2]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def crop_of(image: Image.Image, crop: str) -> tuple[int, int, int, int]:
    options = ImageSettings.from_config(PrepareConfig(size=64, bucket_step=16, min_size=16, crop=crop))
    decoded = Decoded(image=image, width=image.width, height=image.height, notes=())
    return choose_crop(decoded, options, "an-id")[0]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 440), st.booleans())
def test_a_smart_crop_keeps_the_thing_wherever_it_is(place: int, upright: bool) -> None:
    box = (place, 60, place + 60, 110)
    image = with_spot(500, 160, box)
    if upright:
        image, box = image.transpose(Image.Transpose.TRANSPOSE), (box[1], box[0], box[3], box[2])
    left, top, right, bottom = crop_of(image, "smart")
    seen = (min(right, box[2]) - max(left, box[0])) * (min(bottom, box[3]) - max(top, box[1]))
    assert seen >= 0.9 * 60 * 50
    assert {right - left, bottom - top} == {267, 160}


def test_the_centre_crop_of_the_same_image_would_lose_it() -> None:
    left, _, right, _ = crop_of(with_spot(500, 160, (0, 60, 60, 110)), "bucket")
    assert (left, right) == (116, 383)


def test_a_subject_crop_is_tighter_and_is_never_enlarged_for_it() -> None:
    left, top, right, bottom = crop_of(with_spot(800, 600, (500, 100, 700, 300)), "subject")
    assert left <= 520 and right >= 680 and top <= 120 and bottom >= 280
    assert (right - left) * (bottom - top) < 0.35 * 800 * 600
    assert min(right - left, bottom - top) >= 48, "a bucket of 64 squared pixels needs at least this"


def test_an_image_of_one_colour_is_cropped_in_the_centre() -> None:
    plain = Image.new("RGB", (300, 100), "teal")
    assert crop_of(plain, "smart") == crop_of(plain, "bucket")
    assert subject_box(saliency_map(plain)) == (0.0, 0.0, 1.0, 1.0)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=64), st.floats(0.01, 1.0))
@settings(deadline=None)
def test_the_best_window_lies_inside_the_axis_and_holds_no_less_than_the_central_one(
    weights: list[float], share: float
) -> None:
    values = np.array(weights) + 1e-6
    start = best_start(values, share)
    assert 0 <= start <= max(0.0, 1 - share) + 1e-9
    edges = np.concatenate([[0.0], np.cumsum(values)])
    axis = np.linspace(0, 1, len(edges))

    def held(begin: float) -> float:
        return float(np.interp(begin + share, axis, edges) - np.interp(begin, axis, edges))

    assert held(start) >= held((1 - share) / 2) - 2e-3 * edges[-1]


@pytest.fixture(scope="module")
def doubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images: two of them, a copy, a copy as BMP, a mirrored smaller copy, and another one."""
    source = tmp_path_factory.mktemp("doubled")
    save(drawn(1, 320, 240), source / "b.png", "a dog")
    save(drawn(1, 320, 240), source / "a.png")
    save(drawn(1, 320, 240), source / "same-pixels.bmp")
    save(ImageOps.mirror(drawn(1, 320, 240)).resize((160, 120)), source / "mirrored.png", "a small dog")
    save(drawn(2, 320, 240), source / "c.png", "a cat")
    return source


def test_copies_are_left_out_and_the_one_with_a_caption_stays(doubled: Path, tmp_path: Path) -> None:
    before = {path.name: sha256_file(path) for path in doubled.iterdir()}
    lines: list[str] = []
    report = run(doubled, tmp_path / "out", lines, duplicates="exact", trigger="sks")
    assert [example.id for example in report.manifest.examples] == ["b", "c", "mirrored"]
    assert any(
        "2 images are left out of the dataset by --duplicates exact; the source keeps them" in line for line in lines
    )
    rows = [json.loads(line) for line in (tmp_path / "out" / "problems.jsonl").read_text("utf-8").splitlines()]
    assert {row["file"] for row in rows if "a copy of b" in row["reason"]} == {"a.png", "same-pixels.bmp"}
    assert {path.name for path in (tmp_path / "out" / "images").iterdir()} == {"b.png", "c.png", "mirrored.png"}
    assert {path.name: sha256_file(path) for path in doubled.iterdir()} == before, "the source was changed"


def test_near_duplicates_leave_the_largest_image(doubled: Path, tmp_path: Path) -> None:
    report = run(doubled, tmp_path, duplicates="near", trigger="sks", strict=False)
    assert [example.id for example in report.manifest.examples] == ["b", "c"]


def test_leaving_out_what_was_asked_for_is_no_error_under_strict(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(drawn(1), tmp_path / "raw" / f"{name}.png", "a dog")
    report = run(tmp_path / "raw", tmp_path / "out", duplicates="exact", strict=True)
    assert len(report.manifest.examples) == 1


def kohya(folder: Path) -> Path:
    for number in range(3):
        save(drawn(number), folder / "10_sks dog" / f"{number}.png")
    save(drawn(8), folder / "2_house" / "a.png", "a red house")
    return folder


def test_class_folders_are_read_as_users_of_kohyas_scripts_know_them(tmp_path: Path) -> None:
    lines: list[str] = []
    report = run(kohya(tmp_path / "raw"), tmp_path / "out", lines)
    rows = {example.id: example for example in read_manifest(tmp_path / "out").examples}
    assert {id_: row.repeats for id_, row in rows.items()} == {
        "10_sks dog/0": 10,
        "10_sks dog/1": 10,
        "10_sks dog/2": 10,
        "2_house/a": 2,
    }
    assert rows["10_sks dog/0"].caption == "sks dog"
    assert rows["2_house/a"].caption == "a red house"
    assert report.num_without_caption == 3
    said = "\n".join(lines)
    assert "class folders: '10_sks dog': 3 images x 10, '2_house': 1 image x 2" in said
    assert "3 of 4 images have no caption; they get 'sks dog'" in said


def test_class_folders_can_be_switched_off_and_a_year_is_none(tmp_path: Path) -> None:
    report = run(kohya(tmp_path / "raw"), tmp_path / "out", class_folders="off", caption_template="x")
    assert {example.repeats for example in report.manifest.examples} == {1}
    assert class_folder("2023_holiday/a") is None
    assert class_folder("10_dog/more/a").repeats == 10
    assert class_folder("0_dog/a") is None
    assert class_folder("10_dog") is None, "a file's own name is no folder"


def test_folders_of_which_only_some_look_like_class_folders_are_not_repeated_and_that_is_said() -> None:
    found, lines = class_folders(["10_dog/a", "cats/b"], "auto")
    assert not found
    assert lines == [
        "1 of 2 images lie in folders that are named like class folders ('10_dog'); they are not repeated: "
        "--class-folders on reads them so"
    ]
    assert list(class_folders(["10_dog/a", "cats/b"], "on")[0]) == ["10_dog/a"]


def test_repeats_and_weights_of_folders_reach_the_manifest(tmp_path: Path) -> None:
    for name in ("dogs/big/a", "dogs/b", "c"):
        save(drawn(len(name)), tmp_path / "raw" / f"{name}.png", name)
    lines: list[str] = []
    report = run(
        tmp_path / "raw", tmp_path / "out", lines, repeats=("dogs=4", "dogs/big=7"), weights=(".=0.5", "cast=2")
    )
    assert {e.id: (e.repeats, e.weight) for e in report.manifest.examples} == {
        "dogs/big/a": (7, 0.5),
        "dogs/b": (4, 0.5),
        "c": (1, 0.5),
    }
    assert any("--weight cast=2 is not used: no image lies in that folder" in line for line in lines)
    with pytest.raises(UserError, match="not used: no image lies in that folder"):
        run(tmp_path / "raw", tmp_path / "strict", repeats=("dgs=2",), strict=True)
    with pytest.raises(ValueError, match="is not FOLDER=N"):
        PrepareConfig(repeats=("dogs=2.5",))
    with pytest.raises(ValueError, match="out of range"):
        PrepareConfig(weights=("dogs=0",))


def test_the_manifest_of_a_plain_dataset_has_no_new_columns(tmp_path: Path) -> None:
    """Fingerprints of datasets and runs from before there were repeats stay as they are."""
    save(drawn(1), tmp_path / "raw" / "a.png", "a dog")
    run(tmp_path / "raw", tmp_path / "out")
    row = json.loads((tmp_path / "out" / "manifest.jsonl").read_text(encoding="utf-8"))
    assert not {"repeats", "weight", "batch_size"} & row.keys()


def test_folders_have_batch_sizes_and_sizes_of_their_own(tmp_path: Path) -> None:
    for folder in ("photos", "photos/large", "scans"):
        save(drawn(len(folder), 320, 240), tmp_path / "raw" / folder / "a.png", "a dog")
    save(drawn(9, 80, 80), tmp_path / "raw" / "photos" / "large" / "small.png", "a cat")
    lines: list[str] = []
    changes = {
        "also_size": (96,),
        "size_of": ("photos=128", "photos/large=128,192", "phtos=32"),
        "batch_size_of": ("photos=2", ".=3", "photos/large=1"),
    }
    report = run(tmp_path / "raw", tmp_path / "out", lines, **changes)
    rows = {example.id: example for example in report.manifest.examples}
    sides = {id_: round((row.width * row.height) ** 0.5, -1) for id_, row in rows.items()}
    assert sides == {
        "photos/a": 130,
        "photos/large/a": 130,
        "photos/large/a@192": 190,
        "photos/large/small": 130,
        "scans/a": 60,
        "scans/a@96": 90,
    }
    assert [rows[id_].batch_size for id_ in ("photos/a", "photos/large/a@192", "scans/a")] == [2, 1, 3]
    assert read_manifest(tmp_path / "out").examples == report.manifest.examples
    assert any("1 of 2 images are not prepared at --size-of 192: too small" in line for line in lines)
    assert "--size-of phtos=32 is not used: no image lies in that folder; did you mean 'photos'" in "\n".join(lines)
    again = run(tmp_path / "raw", tmp_path / "out", **changes)
    assert again.num_reused == 6
    other = run(tmp_path / "raw", tmp_path / "out", **{**changes, "size_of": ("photos=128", "photos/large=64,192")})
    assert other.num_reused == 4, "of the folder with another first size only the further size is kept"
    ledger = inspect_folder(tmp_path / "raw", InspectConfig(size=64, bucket_step=16, min_size=16, **changes)).ledger
    assert ledger is not None
    assert {(row.id, row.batch_size) for row in ledger.rows} == {
        (id_.partition("@")[0], row.batch_size) for id_, row in rows.items()
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("size_of", "photos"),
        ("size_of", "photos=8"),
        ("size_of", "photos=64,64"),
        ("size_of", "=64"),
        ("size_of", "photos=64,"),
        ("batch_size_of", "photos=0"),
        ("batch_size_of", "photos=1.5"),
        ("batch_size_of", "photos=5000"),
    ],
)
def test_numbers_of_folders_that_make_no_sense_are_refused(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"FOLDER=|out of range"):
        PrepareConfig(**{name: (text,)})


def test_a_size_of_a_folder_that_no_bucket_fits_is_refused_before_an_image_is_read(tmp_path: Path) -> None:
    save(drawn(1), tmp_path / "raw" / "a.png", "a dog")
    with pytest.raises(UserError, match="multiple of 8"):
        run(tmp_path / "raw", tmp_path / "out", crop="center", size_of=(".=100",))


def test_further_sizes_are_rows_of_their_own_and_small_images_are_not_enlarged_for_them(tmp_path: Path) -> None:
    save(drawn(1, 320, 240), tmp_path / "raw" / "large.png", "a dog")
    save(drawn(2, 80, 80), tmp_path / "raw" / "small.png", "a cat")
    lines: list[str] = []
    report = run(tmp_path / "raw", tmp_path / "out", lines, also_size=(128,))
    sizes = {example.id: example.width * example.height for example in report.manifest.examples}
    assert sorted(sizes) == ["large", "large@128", "small"]
    assert sizes["large"] <= 64 * 64 < sizes["large@128"] <= 128 * 128
    assert any("1 of 2 images are not prepared at --also-size 128: too small" in line for line in lines)
    assert report.num_duplicates == 0, "sizes of one image are no duplicates of each other"
    assert run(tmp_path / "raw", tmp_path / "out", also_size=(128,)).num_reused == 3


def test_sizes_of_one_image_lie_on_one_side_of_the_split(tmp_path: Path) -> None:
    for seed in range(12):
        save(drawn(seed, 320, 240), tmp_path / "raw" / f"{seed:02d}.png", f"image {seed}")
    report = run(tmp_path / "raw", tmp_path / "out", also_size=(128,), validation_share=0.3, near_duplicate_bits=0)
    sides = {example.id: example.split for example in report.manifest.examples}
    assert {sides[id_] for id_ in sides} == {"train", "validation"}
    assert all(sides[f"{seed:02d}"] == sides[f"{seed:02d}@128"] for seed in range(12))


def test_images_that_would_be_enlarged_too_much_are_refused_on_every_run(tmp_path: Path) -> None:
    save(drawn(1, 160, 120), tmp_path / "raw" / "large.png", "a dog")
    save(drawn(2, 20, 20), tmp_path / "raw" / "tiny.png", "a cat")
    assert len(run(tmp_path / "raw", tmp_path / "out").manifest.examples) == 2
    for _ in range(2):  # the second one has its row in the journal
        report = run(tmp_path / "raw", tmp_path / "out", max_enlargement=2.0)
        assert [example.id for example in report.manifest.examples] == ["large"]
        assert "20 x 20 would be enlarged 3.2 times, the limit is 2" in report.problems[0].reason


def test_an_upscaler_enlarges_small_images_the_same_in_tiles_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tiny ESRGAN of random weights, read by spandrel itself."""
    pytest.importorskip("spandrel", reason="the extra `upscale` is not installed")
    import torch
    from safetensors.torch import save_file
    from spandrel.architectures.ESRGAN import ESRGAN

    from loraloom.prepare import upscaling

    torch.manual_seed(0)
    weights = ESRGAN(in_nc=3, out_nc=3, num_filters=8, num_blocks=1, scale=4).state_dict()
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "x4.safetensors")
    model = str(tmp_path / "x4.safetensors")
    whole = np.asarray(upscaling.upscaled(drawn(1, 90, 70), model), int)
    monkeypatch.setattr(upscaling, "TILE", 32)
    tiled = np.asarray(upscaling.upscaled(drawn(1, 90, 70), model), int)
    assert whole.shape == (280, 360, 3)
    assert abs(whole - tiled).max() <= 1
    save(drawn(1, 40, 40), tmp_path / "raw" / "small.png", "a dog")
    save(drawn(2, 320, 240), tmp_path / "raw" / "large.png", "a cat")
    plain = {e.id: e.sha256 for e in run(tmp_path / "raw", tmp_path / "plain").manifest.examples}
    made = {e.id: e.sha256 for e in run(tmp_path / "raw", tmp_path / "made", upscaler=model).manifest.examples}
    assert made["large"] == plain["large"], "a large image is not its business"
    assert made["small"] != plain["small"]
    assert run(tmp_path / "raw", tmp_path / "made", upscaler=model).num_reused == 2
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="the upscaler cannot be read"):
        ImageSettings.from_config(PrepareConfig(upscaler=str(tmp_path / "other.safetensors")))


def test_an_upscaler_without_its_package_or_file_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such weight file"):
        ImageSettings.from_config(PrepareConfig(upscaler=str(tmp_path / "model.safetensors")))
    (tmp_path / "model.pth").write_bytes(b"\x80\x02")
    with pytest.raises(UserError, match="pickled checkpoint"):
        ImageSettings.from_config(PrepareConfig(upscaler=str(tmp_path / "model.pth")))
