"""Images in other palettes: refused with their colours instead of read as nonsense, and read right with `--palette`."""

import html
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from loraloom.config.prepare import PrepareConfig
from loraloom.extensions.domains.floorplan import FloorPlans
from loraloom.extensions.domains.floorplan.cli.inputs import open_plan
from loraloom.extensions.domains.floorplan.plan import Plan
from loraloom.extensions.domains.floorplan.render.painting import paint
from loraloom.extensions.domains.floorplan.synthesis import synthesise
from loraloom.extensions.domains.floorplan.text.spec import print_spec, spec_of
from loraloom.extensions.domains.floorplan.vision.flat_colours import (
    MOST_FOREIGN,
    flat_colours,
    foreign_share,
    known_of,
)
from loraloom.extensions.domains.floorplan.vision.palette_file import load_palette
from loraloom.extensions.domains.floorplan.vision.reading import as_array
from loraloom.extensions.domains.floorplan.vocabulary import CLASS_NAMES, DOOR, EXTERNAL, STYLES, WALL, hex_of
from loraloom.prepare.run import PrepareReport, prepare
from loraloom.prepare.suitability import MAX_SAMPLED, unsuited_images
from loraloom.protocols.data import Example
from loraloom.utils.errors import UserError
from tests.extensions.domains.floorplan.cli.test_verb_plan import mistake, run
from tests.support.images import shared_data

SJH = STYLES["sjh"].palette
TELL2DESIGN = "ffffff eee8aa ffa500 f08080 add8e6 ffd700 6b8e23 dda0dd ffff00 000000 ff0000 c000c0 40a0a0"


@cache
def plan(seed: int) -> Plan:
    return synthesise(seed).plan


def dark_ground() -> np.ndarray[Any, Any]:
    colours = SJH.copy()
    colours[EXTERNAL] = 16
    return colours


FOREIGN = {
    "dark ground": dark_ground(),
    "greyscale": np.repeat((SJH @ [[0.299], [0.587], [0.114]]).astype(np.uint8), 3, 1),
    "channels exchanged": SJH[:, ::-1],
    "inverted": 255 - SJH,
    "darker": (SJH * 0.6).astype(np.uint8),
    "Tell2Design": np.array([list(bytes.fromhex(word)) for word in TELL2DESIGN.split()], np.uint8),
    "plain in greyscale": np.repeat((STYLES["plain"].palette @ [[0.3], [0.6], [0.1]]).astype(np.uint8), 3, 1),
}


def in_colours(seed: int, colours: np.ndarray[Any, Any], path: Path) -> Path:
    Image.fromarray(colours[plan(seed).labels]).save(path)
    return path


def write_palette(path: Path, colours: np.ndarray[Any, Any], without: tuple[str, ...] = ()) -> Path:
    named = zip(CLASS_NAMES, colours.tolist(), strict=True)
    path.write_text(
        json.dumps({name: hex_of(tuple(rgb)) for name, rgb in named if name not in without}), encoding="utf-8"
    )
    return path


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def noisy(image: Image.Image, sigma: float) -> Image.Image:
    values = np.asarray(image, np.float32) + np.random.default_rng(0).normal(0, sigma, (*image.size[::-1], 3))
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


# ---------------------------------------------------------------------------------------------------- in a dataset


def dataset(folder: Path, count: int, foreign: tuple[int, ...]) -> Path:
    """Plans with texts, some of them on a dark ground."""
    (folder / "raw").mkdir()
    for number in range(count):
        colours = FOREIGN["dark ground"] if number in foreign else SJH
        in_colours(number % 4, colours, folder / "raw" / f"{number:03}.png")
        (folder / "raw" / f"{number:03}.txt").write_text(print_spec(spec_of(plan(number % 4))), encoding="utf-8")
    return folder / "raw"


def prepared(source: Path, out: Path, **changes: object) -> tuple[PrepareReport, list[str]]:
    said: list[str] = []
    config = PrepareConfig(**{"domain": "floorplan", "size": 256, "resample": "nearest", "num_workers": 1, **changes})  # pyright: ignore[reportArgumentType]
    return prepare(source, out, config, console=said.append), said


def test_prepare_counts_images_in_a_foreign_palette_aloud_and_refuses_them_under_strict(tmp_path: Path) -> None:
    source = dataset(tmp_path, 5, foreign=(1, 3))
    report, said = prepared(source, tmp_path / "out")
    (line,) = [each.strip() for each in said if "no known style" in each]
    assert line.startswith("2 of 5 images are in colours of no known style, and `loraloom plan clean --palette FILE`")
    assert "001 has #101010 " in line
    assert html.escape(line[:60]) in report.page.read_text(encoding="utf-8")
    assert len(report.manifest.examples) == 5
    with pytest.raises(UserError, match="2 of 5 images are in colours of no known style"):
        prepared(source, tmp_path / "strict", strict=True)


def test_prepare_finds_nothing_in_our_styles_nor_where_the_domain_has_no_palette(tmp_path: Path) -> None:
    source = dataset(tmp_path, 3, foreign=())
    prepared(source, tmp_path / "out", strict=True)
    in_colours(1, FOREIGN["inverted"], source / "001.png")
    prepared(source, tmp_path / "text", domain="freetext", strict=True)


def test_at_most_64_images_are_looked_at_from_the_first_to_the_last(tmp_path: Path) -> None:
    """A folder of thousands costs no more, and a foreign half is found wherever it stands."""
    seen: list[str] = []

    class Looking(FloorPlans):
        def check_image(self, image: Image.Image) -> str | None:
            seen.append("")
            return "odd: red" if image.getpixel((0, 0)) == (255, 0, 0) else None

    (tmp_path / "images").mkdir()
    examples: list[Example] = []
    for number in range(200):
        name = f"images/{number}.png"
        Image.new("RGB", (4, 4), "red" if number >= 100 else "blue").save(tmp_path / name)
        examples.append(
            Example(
                id=str(number),
                image=name,
                caption="",
                caption_found=None,
                split="train",
                width=4,
                height=4,
                sha256="",
                source_sha256="",
                source_width=4,
                source_height=4,
                crop=(0, 0, 4, 4),
                scale=1.0,
                num_tokens=None,
            )
        )
    assert unsuited_images(Looking(), tmp_path, examples) == [
        "32 of 64 images looked at (200 in all) are odd: 100 has red"
    ]
    assert len(seen) == MAX_SAMPLED
    assert unsuited_images(Looking(), tmp_path, examples[100:101]) == ["1 of 1 images is odd: 100 has red"]
    assert unsuited_images(Looking(), tmp_path, []) == []


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("seed", range(2))
def test_an_image_in_another_palette_is_refused_with_its_colours_and_the_known_ones(
    tmp_path: Path, name: str, seed: int
) -> None:
    """A red room was read as a front door, a dark ground as a wall, with status 0."""
    file = in_colours(seed, FOREIGN[name], tmp_path / "a.png")
    said = mistake("read", file)
    assert "is in a palette that no style has" in said
    assert hex_of(tuple(FOREIGN[name][EXTERNAL].tolist())) in said  # the largest area
    for style in STYLES.values():
        assert (
            f"{style.name} (external {hex_of(style.colours[EXTERNAL])}, living room {hex_of(style.colours[1])}" in said
        )
    assert "--palette" in said


def test_it_is_refused_after_jpeg_too(tmp_path: Path) -> None:
    for name, colours in FOREIGN.items():
        jpeg(Image.fromarray(colours[plan(1).labels]), 50).save(tmp_path / "a.png")
        assert "is in a palette that no style has" in mistake("read", tmp_path / "a.png"), name


def test_every_verb_refuses_it_and_writes_nothing(tmp_path: Path) -> None:
    file = in_colours(1, FOREIGN["greyscale"], tmp_path / "a.png")
    out = tmp_path / "out"
    for command in (
        ["read", file, "--json", out / "a.json"],
        ["show", file],
        ["verify", file, "--text", "two bedrooms", "--out", out],
        ["clean", file, "--out", out / "b.png"],
        ["export", file, "--out", out / "b.svg"],
        ["augment", file, print_spec(spec_of(plan(1))), "--out", out],
    ):
        assert "is in a palette that no style has" in mistake(*command)
        assert not out.exists()


def test_a_style_that_is_named_is_the_only_one_that_may_fit(tmp_path: Path) -> None:
    file = in_colours(1, STYLES["plain"].palette, tmp_path / "a.png")
    said = mistake("read", file, "--style", "sjh")
    assert "is in a palette that style 'sjh' has not" in said
    assert "leave --style out" in said


DISTURBED = {
    "JPEG 30": lambda image: jpeg(image, 30),
    "JPEG 60": lambda image: jpeg(image, 60),
    "noise 15": lambda image: noisy(image, 15),
    "noise 25": lambda image: noisy(image, 25),
    "blur 1": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "half size": lambda image: image.resize((128, 128), Image.Resampling.BICUBIC),
    "larger": lambda image: image.resize((350, 350), Image.Resampling.BICUBIC),
    "noise and JPEG": lambda image: jpeg(noisy(image, 15), 50),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", DISTURBED)
def test_our_own_styles_are_not_refused_for_noise_blur_or_compression(tmp_path: Path, style: str, name: str) -> None:
    for seed in range(2):
        image = DISTURBED[name](Image.fromarray(paint(plan(seed).labels, style)))
        share = foreign_share(flat_colours(as_array(image)), known_of(STYLES[style]))
        assert share < MOST_FOREIGN / 2
        image.save(tmp_path / "a.png")
        assert open_plan(tmp_path / "a.png").style.name == style


@pytest.mark.parametrize("number", [0, 1, 3])
def test_real_plans_are_not_refused_as_jpeg(tmp_path: Path, number: int) -> None:
    image = Image.open(shared_data("sjh") / f"{number}.png").convert("RGB")
    jpeg(image, 40).save(tmp_path / "a.png")
    assert open_plan(tmp_path / "a.png").style.name == "sjh"


def test_areas_that_are_darker_as_a_model_draws_them_are_not_refused(tmp_path: Path) -> None:
    """A sample of a half-trained adapter had a bedroom of #0f722c, 31 from the style's #1e8c32."""
    for style, kind, colour in (("sjh", "bedroom", (15, 114, 44)), ("plain", "master room", (230, 160, 120))):
        colours = STYLES[style].palette.copy()
        colours[CLASS_NAMES.index(kind)] = colour
        noisy(Image.fromarray(colours[plan(1).labels]), 8).save(tmp_path / "a.png")
        assert open_plan(tmp_path / "a.png").style.name == style


def test_a_small_area_in_a_foreign_colour_is_told(tmp_path: Path) -> None:
    pixels = paint(plan(1).labels)
    pixels[2:22, 2:22] = (200, 0, 200)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (
        "areas in colours of no room are read as what is nearest: #c800c8 0." in run("show", tmp_path / "a.png").stderr
    )


def test_every_verb_says_that_colours_are_not_exact(tmp_path: Path) -> None:
    """`show`, `export` and `clean` said nothing."""
    file = tmp_path / "a.png"
    noisy(Image.fromarray(paint(plan(1).labels)), 10).save(file)
    for command in (
        ["show", file],
        ["clean", file, "--out", tmp_path / "b.png"],
        ["export", file, "--out", tmp_path / "b.svg"],
    ):
        assert "colours are not exact" in run(*command).stderr


# ------------------------------------------------------------------------------------------------------- --palette


@pytest.mark.parametrize("name", [name for name in FOREIGN if "grey" not in name])  # in grey, classes have one colour
def test_an_image_is_read_exactly_with_its_own_palette(tmp_path: Path, name: str) -> None:
    colours = FOREIGN[name]
    file, palette = in_colours(2, colours, tmp_path / "a.png"), write_palette(tmp_path / "p.json", colours)
    result = run("read", file, "--palette", palette)
    assert result.stdout == print_spec(spec_of(plan(2)))
    assert "what is written is in style 'sjh'" in result.stderr
    assert run("read", file, "--palette", palette, "--style", "plain").stdout == print_spec(spec_of(plan(2), "plain"))


@pytest.mark.parametrize("seed", range(6))
def test_any_palette_whose_colours_differ_is_read_exactly(tmp_path: Path, seed: int) -> None:
    cells = np.random.default_rng(seed).permutation(16**3)[: len(CLASS_NAMES)]
    colours = np.stack(np.unravel_index(cells, (16, 16, 16)), -1).astype(np.uint8) * 17
    file, palette = in_colours(seed, colours, tmp_path / "a.png"), write_palette(tmp_path / "p.json", colours)
    assert run("read", file, "--palette", palette).stdout == print_spec(spec_of(plan(seed)))


def test_a_class_may_have_several_colours(tmp_path: Path) -> None:
    """RPLAN's renderings give child room, study and guest room a colour each: all are bedrooms here."""
    seed = next(seed for seed in range(30) if plan(seed).counts["bedroom"] == 2)
    labels, second = plan(seed).labels, plan(seed).rooms[-1].id
    second = next(room.id for room in reversed(plan(seed).rooms) if room.id.kind == "bedroom")
    number = [room.id for room in plan(seed).rooms].index(second) + 1
    pixels = FOREIGN["Tell2Design"][labels]
    pixels[plan(seed).instances == number] = (10, 200, 250)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    palette = write_palette(tmp_path / "p.json", FOREIGN["Tell2Design"])
    assert "that the palette p.json gives to no room" in mistake("read", tmp_path / "a.png", "--palette", palette)
    record = json.loads(palette.read_text())
    palette.write_text(json.dumps(record | {"bedroom": [record["bedroom"], "#0AC8FA"]}))
    assert run("read", tmp_path / "a.png", "--palette", palette).stdout == print_spec(spec_of(plan(seed)))
    image = Image.fromarray(pixels).resize((512, 512), Image.Resampling.NEAREST)
    jpeg(noisy(image, 5), 90).save(tmp_path / "b.png")
    assert run("read", tmp_path / "b.png", "--palette", palette).stdout == print_spec(spec_of(plan(seed)))


def test_a_palette_that_lacks_colours_of_the_image_is_told_which(tmp_path: Path) -> None:
    colours = FOREIGN["Tell2Design"]
    file = in_colours(1, colours, tmp_path / "a.png")
    palette = write_palette(tmp_path / "p.json", colours, without=("living room",))
    said = mistake("export", file, "--out", tmp_path / "a.svg", "--palette", palette)
    assert "#eee8aa" in said
    assert "#ffffff" not in said
    assert not (tmp_path / "a.svg").exists()


def test_classes_that_a_palette_leaves_out_do_not_occur(tmp_path: Path) -> None:
    labels = plan(1).labels.copy()
    labels[labels == DOOR] = WALL
    colours = FOREIGN["inverted"]
    Image.fromarray(colours[labels]).save(tmp_path / "a.png")
    palette = write_palette(tmp_path / "p.json", colours, without=("interior door", "storage", "entrance"))
    assert "are connected" not in run("read", tmp_path / "a.png", "--palette", palette).stdout
    noisy(Image.fromarray(colours[labels]), 6).save(tmp_path / "b.png")
    assert "are connected" not in run("read", tmp_path / "b.png", "--palette", palette).stdout


def test_clean_brings_an_image_into_our_colours(tmp_path: Path) -> None:
    colours = FOREIGN["Tell2Design"]
    file, palette = in_colours(1, colours, tmp_path / "a.png"), write_palette(tmp_path / "p.json", colours)
    run("clean", file, "--out", tmp_path / "b.png", "--palette", palette)
    assert run("read", tmp_path / "b.png").stdout == print_spec(spec_of(plan(1)))
    for command in (["show", file], ["verify", file, "--text", print_spec(spec_of(plan(1))), "--out", tmp_path / "receipts"],
                    ["export", file, "--out", tmp_path / "a.json"],
                    ["augment", file, print_spec(spec_of(plan(1))), "--out", tmp_path / "pairs"]):  # fmt: skip
        run(*command, "--palette", palette)
    assert run("read", tmp_path / "a.json").stdout == print_spec(spec_of(plan(1)))


def test_a_palette_for_what_has_no_colours_is_a_mistake(tmp_path: Path) -> None:
    palette = write_palette(tmp_path / "p.json", SJH)
    assert "--palette is for an image" in mistake("show", "two bedrooms", "--palette", palette)
    run("export", in_colours(1, SJH, tmp_path / "a.png"), "--out", tmp_path / "a.json")
    assert "--palette says nothing about it" in mistake("show", tmp_path / "a.json", "--palette", palette)


def test_colours_too_near_each_other_are_read_in_exact_images_only(tmp_path: Path) -> None:
    colours = FOREIGN["inverted"].copy()
    colours[1] = colours[EXTERNAL] + 3
    file, palette = in_colours(1, colours, tmp_path / "a.png"), write_palette(tmp_path / "p.json", colours)
    assert run("read", file, "--palette", palette).stdout == print_spec(spec_of(plan(1)))
    jpeg(Image.fromarray(colours[plan(1).labels]), 90).save(file)
    assert "'living room' are too similar: got #" in mistake("read", file, "--palette", palette)


GOOD = '"external": "#ffffff", "wall": "#000000", "kitchen": "#ff0000"'
MISTAKES = {
    "is not JSON": "{",
    "is not a JSON object": '["#ffffff"]',
    "did you mean 'kitchen'": '{"external": "#ffffff", "wall": "#000000", "kichen": "#ff0000"}',
    "names a class twice": f'{{{GOOD}, "kitchen": "#00ff00"}}',
    "no colour for 'external'": '{"wall": "#000000", "kitchen": "#ff0000"}',
    "no colour for 'wall'": '{"external": "#ffffff", "kitchen": "#ff0000"}',
    "no colour for any room": '{"external": "#ffffff", "wall": "#000000"}',
    "kitchen has no colour there: got 'red'": '{"external": "#ffffff", "wall": "#000000", "kitchen": "red"}',
    "kitchen has no colour there: got 255": '{"external": "#ffffff", "wall": "#000000", "kitchen": [255, 0, 0]}',
    "'bathroom' no colour": f'{{{GOOD}, "bathroom": []}}',
    "one colour: got #ff0000": f'{{{GOOD}, "bathroom": "#FF0000"}}',
    "too many colours": json.dumps(json.loads(f"{{{GOOD}}}") | {"bedroom": [f"#00{n:02x}ff" for n in range(90)]}),
}  # fmt: skip


@pytest.mark.parametrize("fault", MISTAKES)
def test_a_palette_with_a_mistake_is_told_what_is_wrong(tmp_path: Path, fault: str) -> None:
    (tmp_path / "p.json").write_text(MISTAKES[fault], encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_palette(tmp_path / "p.json")
    assert fault in str(caught.value)
    assert "p.json" in str(caught.value)
