"""What `inspect` finds in a raw folder, how it says it, and that it changes nothing."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter, ImageOps

from loraloom import plugins
from loraloom.cli.inspect_command import run_inspect, with_speed_of
from loraloom.config.inspect import InspectConfig
from loraloom.prepare.inspection import captions as lint
from loraloom.prepare.inspection.findings import KINDS, PURPOSES
from loraloom.prepare.inspection.quality import measure
from loraloom.prepare.inspection.run import Inspection, inspect_folder
from loraloom.prepare.inspection.summary import as_json, lines_of
from loraloom.prepare.source_facts import facts_of
from loraloom.utils.atomic_files import sha256_file
from loraloom.utils.errors import UserError
from tests.support.images import bomb_png, drawn, encoded, folder_of, save


def inspected(folder: Path, **changes: object) -> Inspection:
    values = {"size": 64, "bucket_step": 16, "min_size": 16, "num_workers": 1, "purpose": "subject", **changes}
    return inspect_folder(folder, InspectConfig(**values))


def codes(found: Inspection, where: str) -> set[str]:
    return {finding.code for finding in found.findings if finding.where == where}


def sharp(seed: int, width: int = 240, height: int = 240) -> Image.Image:
    """A sharp image: noise over blots."""
    noise = np.random.default_rng(seed).normal(0, 40, (height, width, 1))
    return Image.fromarray((np.asarray(drawn(seed, width, height)) + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image for each kind of finding."""
    folder = tmp_path_factory.mktemp("raw")
    save(sharp(1), folder / "good.png", "sks dog on a lawn")
    save(sharp(2).filter(ImageFilter.GaussianBlur(12)), folder / "blurred.png", "sks dog in a street")
    save(Image.eval(sharp(3), lambda value: value // 20), folder / "dark.png", "sks dog at night")
    save(Image.new("RGB", (99, 99), "gray"), folder / "flat.png", "sks dog in fog")
    save(sharp(4, 40, 40), folder / "small.png", "sks dog far away")
    save(sharp(5, 17, 17), folder / "tiny.png", "sks dog very far away")
    save(sharp(6, 500, 100), folder / "wide.png", "sks dog that looks left")
    save(ImageOps.mirror(sharp(1)), folder / "mirrored.png", "sks dog, mirrored")
    shutil.copy(folder / "good.png", folder / "copy.png")
    (folder / "copy.txt").write_text("sks cat on a lawn", encoding="utf-8")
    save(sharp(8).convert("CMYK"), folder / "cmyk.jpg", "sks dog in print")
    values = np.asarray(sharp(9).convert("L"), np.uint16) * 257
    Image.fromarray(values).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    sharp(10, 300, 200).save(folder / "turned.jpg", exif=exif)
    clear = sharp(11).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    save(clear, folder / "alpha.png", "")
    frames = [sharp(12).quantize(32), sharp(13).quantize(32)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    (folder / "moving.txt").write_text("sksdog running", encoding="utf-8")
    (folder / "broken.jpg").write_bytes(encoded(sharp(14), "JPEG")[:900])
    (folder / "bomb.png").write_bytes(bomb_png())
    (folder / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    save(sharp(15), folder / "korean.png").with_suffix(".txt").write_bytes("자동차".encode("cp949"))
    (folder / "alone.txt").write_text("a text without an image", encoding="utf-8")
    save(sharp(16), folder / "other.png", "SKS dog in capitals")
    save(sharp(17), folder / "absent.png", "a dog without a name")
    save(sharp(18), folder / "html.png", "<html><body>sks dog")
    return folder


@pytest.fixture(scope="module")
def report(faulty: Path) -> Inspection:
    return inspected(faulty, trigger="sks")


EXPECTED: dict[str, set[str]] = {
    "good.png": {"exact_duplicate"},
    "blurred.png": {"blurred"},
    "dark.png": {"dark"},
    "flat.png": {"flat"},
    "small.png": {"small"},
    "tiny.png": set(),
    "wide.png": {"cut", "sided"},
    "copy.png": {"conflicting_captions"},
    "mirrored.png": {"near_duplicate"},
    "cmyk.jpg": {"cmyk"},
    "deep.png": {"deep", "no_caption"},
    "turned.jpg": {"turned", "no_caption"},
    "alpha.png": {"transparent", "empty_caption"},
    "moving.gif": {"animated", "trigger_fused"},
    "broken.jpg": {"unusable"},
    "bomb.png": {"unusable"},
    "clip.mp4": {"not_read"},
    "korean.png": {"unusable"},
    "alone.txt": {"unusable"},
    "other.png": {"trigger_case"},
    "absent.png": {"trigger_absent"},
    "html.png": {"doubtful_caption"},
}


@pytest.mark.parametrize("file", sorted(EXPECTED))
def test_each_fault_is_found_at_its_file(report: Inspection, file: str) -> None:
    # Which of three near-duplicates is the first one depends on their ids, not on what is tested here.
    others = {"near_duplicate", "small", "no_caption"} - EXPECTED[file]
    assert codes(report, file) - others == EXPECTED[file]


def test_every_bad_file_is_named_with_its_reason(report: Inspection) -> None:
    reasons = {finding.where: finding.text for finding in report.findings if finding.code == "unusable"}
    assert "truncated" in reasons["broken.jpg"]
    assert "3,600 megapixels" in reasons["bomb.png"]
    assert "try --encoding cp949" in reasons["korean.png"]


def test_an_image_far_below_the_size_is_too_small_by_purpose(faulty: Path) -> None:
    """60-pixel images in a 512-pixel style: refused for a style, used for layouts."""
    style, layout = inspected(faulty, purpose="style"), inspected(faulty, purpose="layout")
    assert "too_small" in codes(style, "tiny.png")
    assert "small" in codes(layout, "tiny.png")
    text = next(finding.text for finding in style.findings if finding.where == "tiny.png")
    assert text == "17 x 17 would be enlarged 3.8 times, the limit is 3"
    assert "--max-enlargement 3" in style.command
    assert "--max-enlargement" not in layout.command


def test_few_images_are_said_by_purpose_and_concept_with_the_reason(tmp_path: Path) -> None:
    folder_of(tmp_path / "raw" / "anime", 12)
    folder_of(tmp_path / "raw" / "cartoon", 3, first=20)
    found = inspected(tmp_path / "raw", purpose="style")
    few = {finding.where: finding.text for finding in found.findings if finding.code == "few"}
    assert few == {
        "anime": "12 images; 80 are advised for a style; enough for --purpose subject",
        "cartoon": "3 images; 80 are advised for a style",
    }
    line = next(line for line in lines_of(found) if "few images" in line)
    assert PURPOSES["style"].few_reason in line
    assert not [one for one in inspected(tmp_path / "raw", few_images=3).findings if one.code == "few"]


def test_the_cut_is_the_share_of_the_area_outside_the_crop(report: Inspection) -> None:
    wide = report.found["wide"]
    left, top, right, bottom = wide.crop
    assert wide.cut == pytest.approx(1 - (right - left) * (bottom - top) / (500 * 100))
    rows = {(row["width"], row["height"]): row for row in report.buckets}
    assert rows[wide.target]["max_cut_percent"] == round(100 * wide.cut, 1)
    assert sum(row["images"] for row in report.buckets) == sum(one.problem is None for one in report.found.values())


def test_the_crop_is_outlined_on_the_thumbnail(report: Inspection, tmp_path: Path) -> None:
    path = tmp_path / "wide.jpg"
    path.write_bytes(report.thumbnails["wide"])
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), int)
    left = round(report.found["wide"].crop[0] / 500 * pixels.shape[1])
    red = pixels[5:-5, left]
    assert red[:, 0].mean() > 150 and red[:, 1].mean() < 110, "no red line at the crop's left edge"
    assert pixels[:, : left - 2].mean() > pixels[:, left + 4 : pixels.shape[1] - left - 4].mean(), "it is not pale"


def test_a_blurred_image_measures_more_than_its_original_and_a_plan_is_sharp() -> None:
    image = sharp(1, 400, 400)
    measured = [measure(image.filter(ImageFilter.GaussianBlur(radius))).blur for radius in (0, 1, 3, 8)]
    assert measured == sorted(measured)
    assert measured[0] < 0.4 and measured[-1] > 0.7
    plan = Image.new("RGB", (256, 256), "white")
    plan.paste("black", (40, 40, 200, 60))
    assert measure(plan).blur < 0.2
    assert measure(plan).is_graphic
    assert measure(Image.new("RGB", (99, 7), "teal")).blur == 0


def test_white_around_a_product_is_no_fault_of_exposure(tmp_path: Path) -> None:
    cut_out = Image.new("RGB", (200, 200), "white")
    cut_out.paste(sharp(1, 80, 80), (60, 60))
    save(cut_out, tmp_path / "raw" / "product.png", "a product")
    sky = sharp(2, 200, 200)
    sky.paste("white", (20, 20, 180, 180))
    save(sky, tmp_path / "raw" / "sky.png", "a sky")
    found = inspected(tmp_path / "raw")
    assert "clipped" not in codes(found, "product.png")
    assert "clipped" in codes(found, "sky.png")


@pytest.mark.parametrize(
    ("make", "bits"),
    [
        (lambda: encoded(Image.fromarray(np.zeros((9, 9), np.uint16)), "PNG"), 16),
        (lambda: encoded(Image.fromarray(np.zeros((9, 9), np.float32)), "TIFF"), 32),
        (lambda: encoded(Image.new("1", (9, 9)), "PNG"), 1),
        (lambda: encoded(Image.new("RGB", (9, 9)), "PNG"), 8),
        (lambda: encoded(Image.new("CMYK", (9, 9)), "TIFF"), 8),
    ],
)
def test_the_bits_of_a_channel_are_those_of_the_file(make: Callable[[], bytes], bits: int, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(make())
    with Image.open(tmp_path / "image") as image:
        assert facts_of(image).bits == bits


def test_inspect_changes_nothing_in_the_source(faulty: Path) -> None:
    before = {path.name: sha256_file(path) for path in faulty.iterdir()}
    inspected(faulty)
    assert {path.name: sha256_file(path) for path in faulty.iterdir()} == before


def test_a_domain_says_which_images_it_cannot_use(tmp_path: Path) -> None:
    plan = Image.new("RGB", (128, 128), "magenta")
    plan.paste("navy", (20, 20, 100, 60))
    save(plan, tmp_path / "raw" / "plan.png", "a plan")
    other = inspected(tmp_path / "raw", domain="floorplan", resample="nearest", size=128)
    assert "unsuited" in codes(other, "plan.png")
    assert "unsuited" not in codes(inspected(tmp_path / "raw"), "plan.png")


@pytest.mark.slow  # starts processes that import this program
def test_two_workers_find_what_one_finds(faulty: Path, report: Inspection) -> None:
    two = inspected(faulty, trigger="sks", num_workers=2)
    assert two.findings == report.findings
    assert two.found == report.found


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
def test_fifos_links_and_devices_are_named_and_nothing_hangs(tmp_path: Path) -> None:
    raw = folder_of(tmp_path / "raw", 2)
    os.mkfifo(raw / "pipe.png")
    (raw / "zero.png").symlink_to("/dev/zero")
    (raw / "loop.png").symlink_to("loop.png")
    found = inspected(raw)
    assert {finding.where for finding in found.findings if finding.code == "unusable"} == {
        "pipe.png",
        "zero.png",
        "loop.png",
    }


def test_the_advised_command_keeps_what_the_user_gave_and_adds_the_repairs(faulty: Path) -> None:
    found = inspected(faulty, trigger="sks", crop="center", resample="nearest", caption_suffix=(".tags",))
    for part in ("--size 64", "--trigger sks", "--resample nearest", "--caption-suffix .tags", "--bucket-step 16"):
        assert part in found.command
    assert "--crop smart" in found.command
    assert "--duplicates exact" in found.command
    assert "--purpose" not in found.command, "prepare has no such flag"


@pytest.mark.parametrize(("asked", "words"), [({}, "--resample nearest"), ({"resample": "box"}, "--resample box")])
def test_no_new_colours_are_advised_where_a_colour_encodes_a_class(
    tmp_path: Path, asked: dict[str, Any], words: str
) -> None:
    image, text = plugins.load("domains", "floorplan").dataset_generator.draw(0, "sjh")
    save(image, tmp_path / "raw" / "plan.png", text)
    assert words in inspected(tmp_path / "raw", domain="floorplan", **asked).command
    assert ("--resample" in inspected(tmp_path / "raw", **asked).command) == bool(asked)


def test_the_advised_command_can_be_carried_out(tmp_path: Path, faulty: Path, capsys: pytest.CaptureFixture) -> None:
    import shlex

    from loraloom.cli.app import app

    found = inspect_folder(
        faulty,
        InspectConfig(size=64, bucket_step=16, min_size=16, trigger="sks"),
        dataset=tmp_path / "a dataset",
    )
    words = shlex.split(found.command)
    assert words[:2] == ["loraloom", "prepare"] or words[-1], found.command
    app(words[words.index("prepare") :], prog_name="loraloom", standalone_mode=False)
    assert (tmp_path / "a dataset" / "manifest.jsonl").is_file()
    assert "left out of the dataset by --duplicates exact" in capsys.readouterr().out


def test_a_program_reads_everything_in_the_json(faulty: Path, report: Inspection, tmp_path: Path) -> None:
    value = json.loads(json.dumps(as_json(report, strict=False)))
    assert value["exit_status"] == 1
    assert {row["code"] for row in value["findings"]} <= set(KINDS)
    assert all(row["why"] and row["where"] for row in value["findings"])
    images = {row["file"]: row for row in value["images"]}
    assert images["turned.jpg"]["height"] == 300
    assert images["turned.jpg"]["turned"] is True
    assert images["broken.jpg"]["problem"].startswith("truncated")
    assert sum(len(row["where"]) for row in value["findings"]) == len(report.findings)


def test_the_exit_status_tells_a_script(tmp_path: Path) -> None:
    def status(folder: Path, **changes: object) -> int:
        config = InspectConfig(
            **{"size": 64, "bucket_step": 16, "min_size": 16, "num_workers": 1, "few_images": 1, **changes}
        )
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        return run_inspect(folder, tmp_path / "out", config, None, lambda line: None)

    for seed in range(3):
        save(sharp(seed), tmp_path / "raw" / f"{seed}.png", f"{('red', 'blue', 'green')[seed]} house {seed}")
    assert status(tmp_path / "raw", strict=True) == 0
    save(sharp(0), tmp_path / "raw" / "copy.png", "another house")
    assert status(tmp_path / "raw") == 0
    assert status(tmp_path / "raw", strict=True) == 1
    (tmp_path / "raw" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert status(tmp_path / "raw") == 1


def test_the_page_is_self_contained_and_shows_names_as_text(tmp_path: Path) -> None:
    save(
        sharp(1), tmp_path / "raw" / "<script>alert(1)</script>.png" if os.name != "nt" else tmp_path / "raw" / "a.png"
    )
    save(sharp(2), tmp_path / "raw" / "b.png", "<img src=x onerror=alert(1)>")
    config = InspectConfig(size=64, bucket_step=16, min_size=16, num_workers=1)
    run_inspect(tmp_path / "raw", tmp_path / "out", config, None, lambda line: None)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "<img src=x" not in page
    sources = re.findall(r'(?:src|href)="([^"]{5})', page)
    assert sources and set(sources) == {"data:"}
    assert page.count("data:image/jpeg;base64,") >= 2


def test_of_many_images_those_with_findings_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from loraloom.prepare.inspection import run as room

    monkeypatch.setattr(room, "MAX_THUMBNAILS", 3)
    for seed in range(6):
        save(sharp(seed), tmp_path / "raw" / f"{seed}.png", f"image {seed}")
    save(sharp(9).filter(ImageFilter.GaussianBlur(12)), tmp_path / "raw" / "z.png", "a blurred image")
    titles: list[str] = []

    def bar(title: str) -> Callable[[int, int], None]:
        titles.append(title)
        return lambda done, total: None

    config = InspectConfig(size=64, bucket_step=16, min_size=16, num_workers=1)
    found = inspect_folder(tmp_path / "raw", config, bars=bar)
    assert len(found.thumbnails) == 3
    assert "z" in found.thumbnails
    assert titles == ["images", "thumbnails"]


def test_inspect_without_a_model_never_imports_torch(tmp_path: Path) -> None:
    """With it each worker took seconds to start: on a benchmark two were slower than one."""
    folder_of(tmp_path / "raw", 1)
    program = (
        "import sys; from pathlib import Path; from loraloom.cli.inspect_command import run_inspect; "
        "from loraloom.config.inspect import InspectConfig; "
        "run_inspect(Path('raw'), None, InspectConfig(min_size=16), None, print); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert (tmp_path / "raw-inspected" / "inspect.json").is_file()


def test_the_report_is_not_written_into_the_source_or_among_other_files(tmp_path: Path) -> None:
    raw = folder_of(tmp_path / "raw", 2)
    config = InspectConfig(size=64, bucket_step=16, min_size=16, num_workers=1)
    with pytest.raises(UserError, match="lie in its own source"):
        run_inspect(raw, raw / "report", config, None, print)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="not empty"):
        run_inspect(raw, tmp_path / "mine", config, None, print)
    for _ in range(2):  # an earlier report is replaced
        run_inspect(raw, tmp_path / "out", config, None, lambda line: None)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["inspect.json", "report.html"]


def test_a_folder_whose_captions_are_all_missed_is_refused_with_the_remedy(tmp_path: Path) -> None:
    for seed in range(3):
        save(drawn(seed), tmp_path / "raw" / f"{seed}.png").with_suffix(".tags").write_text("a dog", encoding="utf-8")
    found = inspected(tmp_path / "raw")
    (finding,) = [one for one in found.findings if one.code == "captions_missed"]
    assert "--caption-suffix .tags" in finding.text
    assert found.exit_status(strict=False) == 1


def test_the_sentence_counts_what_would_be_trained_on(tmp_path: Path) -> None:
    for seed in range(10):
        save(sharp(seed), tmp_path / "raw" / "4_dog" / f"{seed}.png", f"image {seed}")
    save(sharp(20, 10, 10), tmp_path / "raw" / "4_dog" / "tiny.png", "tiny")
    found = inspected(tmp_path / "raw", batch_size=4, epochs=5.0, step_seconds=2.0)
    # 10 images of which one is held out; the tiny one is not used.
    assert found.sentence == (
        "9 images (36 an epoch with repeats) x 5 epochs = 45 updates of batch 4, about 1 min 30 s"
    )


def test_the_speed_and_batch_size_of_an_earlier_run_give_the_time(tmp_path: Path) -> None:
    from loraloom.config.reading import read_settings, to_yaml
    from loraloom.config.run import RunConfig

    run = tmp_path / "run"
    run.mkdir()
    (run / "run.yaml").write_text(
        to_yaml(read_settings(RunConfig, values={"data": {"batch_size": 2}})), encoding="utf-8"
    )
    rows = [{"kind": "start", "step": 0}, *({"steps_per_second": speed} for speed in (0.1, 0.5, 0.5))]
    (run / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = with_speed_of(run, InspectConfig())
    assert (config.step_seconds, config.batch_size) == (2.0, 2)
    with pytest.raises(UserError, match="another batch size"):
        with_speed_of(run, InspectConfig(batch_size=8))
    with pytest.raises(UserError, match="choose one"):
        with_speed_of(run, InspectConfig(step_seconds=1.0))
    with pytest.raises(UserError, match="names no run"):
        with_speed_of(tmp_path, InspectConfig())
    (run / "events.jsonl").write_text('{"steps_per_second": NaN}\n', encoding="utf-8")
    with pytest.raises(UserError, match="recorded no speed"):
        with_speed_of(run, InspectConfig())


def test_further_captions_of_an_image_are_looked_at_too(tmp_path: Path) -> None:
    save(sharp(1), tmp_path / "raw" / "a.png")
    row = {"file_name": "a.png", "text": "a sks dog", "captions": ["a sks dog", "a dog on the sign's left"]}
    (tmp_path / "raw" / "metadata.jsonl").write_text(json.dumps(row), encoding="utf-8")
    found = inspected(tmp_path / "raw", trigger="sks")
    assert "trigger_absent" in codes(found, "a.png caption 2")
    assert not codes(found, "a.png") & {"trigger_absent", "same_caption"}


# ------------------------------------------------------------------------------------------------------ caption lint


def test_a_phrase_in_every_caption_is_found_whole_and_the_trigger_is_none() -> None:
    captions = [f"sks dog, a photo of a brown corgi {place}" for place in ("asleep", "on a lawn", "in snow", "at home")]
    assert lint.common_phrases(captions, 0.9, "sks") == [("a photo of a brown corgi", 4), ("dog", 4)]
    assert lint.common_phrases(captions[:3], 0.9, "sks") == [], "three captions are too few to tell"
    assert lint.common_phrases(["a photo of a " + word for word in ("cat", "dog", "car", "tree")], 0.9) == []


@given(st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=6), min_size=4, max_size=8), st.floats(0.5, 1))
@settings(max_examples=60)
def test_a_reported_phrase_stands_in_as_many_captions_as_is_said(words: list[list[str]], share: float) -> None:
    captions = [" ".join(f"word{word}" for word in caption) for caption in words]
    for phrase, number in lint.common_phrases(captions, share):
        inside = sum(f" {phrase} " in f" {caption} " for caption in captions)
        assert number == inside >= share * len(captions) - 1e-6


@pytest.mark.parametrize(
    ("caption", "code"),
    [
        ("a sks dog", None),
        ("sks", None),
        ("a sksdog", "trigger_fused"),
        ("a sks_dog", "trigger_fused"),
        ("a SKS dog", "trigger_case"),
        ("a dog", "trigger_absent"),
        ("a sks-dog", None),
    ],
)
def test_the_trigger_is_sought_as_a_word(caption: str, code: str | None) -> None:
    found = list(lint.trigger_findings({"a": caption}, "sks", {"a": "a.png"}))
    assert [finding.code for finding in found] == ([code] if code else [])


def test_digits_and_many_tokens_of_a_trigger_are_said() -> None:
    class Letters:
        window_tokens = 77

        def tokenize(self, text: str) -> list[int]:
            return [ord(letter) for letter in text]

        def detokenize(self, ids: list[int]) -> str:
            return "".join(map(chr, ids))

    (finding,) = lint.split_findings("myst", Letters())  # pyright: ignore[reportArgumentType]
    assert finding.text == "'myst' is 4 tokens: m | y | s | t"
    assert not list(lint.split_findings("sks", Letters()))  # pyright: ignore[reportArgumentType]
    assert [one.code for one in lint.trigger_findings({}, "ohwx42", {})] == ["trigger_digits"]


def test_captions_are_counted_in_exact_tokens_of_the_named_model(tmp_path: Path) -> None:
    from loraloom.config.domains import open_domain
    from loraloom.models.loading import open_model
    from loraloom.prompts.encoder import PromptEncoder
    from loraloom.protocols.model import ModelSource

    text = open_model(ModelSource(location="builtin:mini")).text
    encoder = PromptEncoder(text=text, domain=open_domain("freetext", {}))
    save(sharp(1), tmp_path / "raw" / "short.png", "a red house")
    save(sharp(2), tmp_path / "raw" / "long.png", "a red house beside a blue tree. " * 12)
    save(sharp(3), tmp_path / "raw" / "endless.png", "a red house beside a blue tree. " * 120)
    config = InspectConfig(size=64, bucket_step=16, min_size=16, num_workers=1, trigger="sks")
    found = inspect_folder(tmp_path / "raw", config, encoder=encoder, model="builtin:mini")
    assert found.tokens["short"] == len(text.tokenizer.tokenize("sks, a red house"))
    assert "long" in codes(found, "long.png")
    assert "too_long" in codes(found, "endless.png")
    assert not codes(found, "short.png") & {"long", "too_long"}
    assert "--model builtin:mini" in found.command
