"""Decoding files from anywhere, and fitting them to a size."""

import contextlib
import io
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from loraloom.config.prepare import PrepareConfig
from loraloom.prepare import colour
from loraloom.prepare.images import Decoded, Fitted, ImageSettings, RefusedError, decode, fit
from loraloom.utils import image_bytes as refusals
from loraloom.utils.errors import UserError
from loraloom.utils.image_bytes import jpeg_scans
from loraloom.utils.image_files import png_bytes
from tests.support.images import bomb_png, drawn, encoded, shared_data


def options(**changes: object) -> ImageSettings:
    return ImageSettings.from_config(PrepareConfig(**{"size": 64, "bucket_step": 16, "min_size": 16, **changes}))


def prepared(data: bytes, **changes: object) -> tuple[Decoded, Fitted]:
    chosen = options(**changes)
    decoded = decode(data, chosen)
    return decoded, fit(decoded, chosen, "an-id")


def mean(image: Image.Image) -> list[float]:
    return np.asarray(image, dtype=float).reshape(-1, 3).mean(axis=0).round(1).tolist()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"these are words", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?>\n<svg/>", "SVG"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (encoded(drawn(1), "JPEG")[:1500], "truncated"),
        (encoded(drawn(1), "PNG")[:1500], "truncated|broken"),
        (encoded(drawn(1), "WEBP")[:300], "truncated|broken|not an image"),
        (encoded(Image.new("RGB", (1, 1)), "PNG"), "too small"),
        (bomb_png(), "3,600 megapixels, the limit is 120"),
        (encoded(Image.new("RGBA", (40, 40)), "PNG"), "transparent"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_a_short_reason(data: bytes, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason) as refusal:
        decode(data, options())
    assert len(str(refusal.value)) < 160


def test_a_bomb_within_pillows_own_limit_is_refused_by_ours() -> None:
    with pytest.raises(RefusedError, match="too large"):
        decode(bomb_png(3000), options(max_megapixels=4.0))


@given(st.integers(0, 5_000), st.integers(0, 255), st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"]))
@settings(max_examples=120)
def test_a_damaged_file_is_decoded_or_refused_and_never_anything_else(place: int, value: int, kind: str) -> None:
    data = bytearray(encoded(drawn(2, 64, 48), kind))
    data[place % len(data)] = value
    with contextlib.suppress(RefusedError):
        assert decode(bytes(data), options()).image.mode == "RGB"


def test_exif_rotation_is_applied_and_the_size_is_the_upright_one() -> None:
    image = Image.new("RGB", (80, 40), "blue")
    image.paste("red", (0, 0, 40, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the left side is up
    for kind in ("JPEG", "PNG", "TIFF", "WEBP"):
        decoded = decode(encoded(image, kind, exif=exif), options())
        assert (decoded.width, decoded.height, decoded.image.size) == (40, 80, (40, 80)), kind
        assert mean(decoded.image.crop((8, 8, 32, 32)))[0] > 240, kind
        assert mean(decoded.image.crop((8, 48, 32, 72)))[2] > 240, kind


def test_transparent_pixels_show_the_background_whatever_lies_below_them() -> None:
    clear = Image.new("RGBA", (40, 40), (200, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (0, 0, 40, 20))
    palette = Image.new("P", (40, 40), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.paste(0, (0, 0, 40, 20))
    grey = Image.merge("LA", (Image.new("L", (40, 40), 0), clear.getchannel("A")))
    for data in (encoded(clear, "PNG"), encoded(palette, "PNG", transparency=1), encoded(grey, "PNG")):
        image = decode(data, options(background="#00ff00")).image
        assert image.mode == "RGB"
        assert image.getpixel((20, 35)) == (0, 255, 0)
        assert image.getpixel((20, 5)) == (0, 0, 0)


def test_sixteen_bits_are_scaled_and_not_clipped_to_white() -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    expected = np.round(ramp / 257.0)
    for kind in ("PNG", "TIFF"):
        image = decode(encoded(Image.fromarray(ramp), kind), options()).image
        assert np.abs(np.asarray(image)[..., 0] - expected).max() <= 1, kind
    floats = decode(encoded(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF"), options()).image
    assert np.abs(np.asarray(floats)[..., 0] - expected).max() <= 1


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
def test_working_in_bands_changes_no_pixel(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    rng = np.random.default_rng(3)
    grey = Image.fromarray(rng.normal(50, 900, (64, 40)).astype(np.float32))
    clear = Image.fromarray(rng.integers(0, 255, (64, 40, 4), dtype=np.uint8))
    data = encoded(grey, "TIFF"), encoded(clear, "PNG")
    whole = [np.asarray(decode(one, options()).image) for one in data]
    monkeypatch.setattr(colour, "_BAND_PIXELS", rows * 40)
    for one, expected in zip(data, whole, strict=True):
        assert np.array_equal(np.asarray(decode(one, options()).image), expected)


def test_cmyk_becomes_rgb_with_its_colours() -> None:
    red = Image.new("RGB", (40, 40), (230, 20, 20)).convert("CMYK")
    image = decode(encoded(red, "JPEG", quality=95), options()).image
    assert image.mode == "RGB"
    assert mean(image) == pytest.approx([230, 20, 20], abs=12)


def test_a_colour_profile_is_converted_to_srgb_and_a_broken_one_is_noted() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = Image.new("RGB", (40, 40), (120, 60, 30))
    same = decode(encoded(grey, "PNG", icc_profile=lab), options())
    assert (mean(same.image), same.notes) == ([120.0, 60.0, 30.0], ())
    broken = decode(encoded(grey, "PNG", icc_profile=b"no profile at all" * 20), options())
    assert mean(broken.image) == [120.0, 60.0, 30.0]
    assert "profile" in broken.notes[0]


def test_an_animated_file_gives_its_first_frame_and_says_so() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        decoded = decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True), options())
        assert mean(decoded.image) == pytest.approx([255, 0, 0], abs=3), kind
        assert "first frame" in decoded.notes[0], kind


@given(
    st.integers(16, 400),
    st.integers(16, 400),
    st.sampled_from(["bucket", "center", "random", "pad"]),
)
@settings(max_examples=60)
def test_every_size_fits_and_the_crop_lies_inside_the_source(width: int, height: int, crop: str) -> None:
    chosen = options(crop=crop)
    fitted = fit(Decoded(image=Image.new("RGB", (width, height)), width=width, height=height, notes=()), chosen, "x")
    left, top, right, bottom = fitted.crop
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    if crop == "bucket":
        assert fitted.image.width % 16 == fitted.image.height % 16 == 0
        assert fitted.image.width * fitted.image.height <= 64 * 64
    else:
        assert fitted.image.size == (64, 64)
    if crop == "pad":
        assert fitted.crop == (0, 0, width, height)
    else:
        assert fitted.scale == pytest.approx(fitted.image.width / (right - left))


def test_a_random_crop_is_a_function_of_seed_and_id() -> None:
    decoded = decode(encoded(drawn(3, 400, 100), "PNG"), options())
    boxes = [
        fit(decoded, options(crop="random", seed=seed), item).crop for seed, item in ((1, "a"), (1, "a"), (2, "a"))
    ]
    assert boxes[0] == boxes[1] != boxes[2]
    assert fit(decoded, options(crop="random", seed=1), "b").crop != boxes[0]


def test_padding_keeps_the_whole_image_on_the_background() -> None:
    _, fitted = prepared(encoded(Image.new("RGB", (100, 50), "red"), "PNG"), crop="pad", background="#0000ff")
    assert fitted.image.getpixel((32, 2)) == (0, 0, 255)
    assert fitted.image.getpixel((32, 32)) == (255, 0, 0)
    assert fitted.scale == pytest.approx(0.64)


def test_nearest_keeps_the_exact_colours_of_a_plan() -> None:
    plan = shared_data("sjh") / "0.png"
    _, fitted = prepared(plan.read_bytes(), size=128, bucket_step=64, resample="nearest")
    with Image.open(plan) as source:
        before = {colour for _, colour in source.convert("RGB").getcolors(1 << 20) or []}
    after = {colour for _, colour in fitted.image.getcolors(1 << 20) or []}
    assert after <= before


def test_decoding_a_jpeg_smaller_changes_the_result_by_less_than_can_be_seen() -> None:
    data = encoded(drawn(4, 1600, 1200), "JPEG", quality=92)
    decoded, fitted = prepared(data, size=128, bucket_step=64, crop="center")
    assert decoded.image.width < 1600, "the draft was not used"
    assert (decoded.width, decoded.height) == (1600, 1200)
    with Image.open(io.BytesIO(data)) as full:
        exact = full.resize((128, 128), Image.Resampling.LANCZOS, box=(200, 0, 1400, 1200))
    error = np.asarray(exact, float) - np.asarray(fitted.image, float)
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 45


def test_much_enlarged_and_much_cut_images_are_noted() -> None:
    _, small = prepared(encoded(drawn(5, 20, 20), "PNG"))
    assert small.notes[0] == "enlarged more than 2 times: 3.2 times, it is only 20 x 20"
    _, wide = prepared(encoded(drawn(5, 640, 64), "PNG"), crop="center")
    assert "only 10% of it is left" in wide.notes[0]


def test_a_prepared_png_gives_back_the_same_pixels() -> None:
    image = drawn(6)
    with Image.open(io.BytesIO(png_bytes(image))) as back:
        assert np.array_equal(np.asarray(back), np.asarray(image))


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"background": "#zzz"}, "background"), ({"size": 100, "crop": "center"}, "size"), ({"bucket_step": 128}, "step")],
)
def test_settings_that_do_not_fit_together_are_the_users_to_mend(changes: dict[str, object], what: str) -> None:
    with pytest.raises(UserError, match=what):
        options(**changes)


def test_the_fingerprint_changes_with_what_changes_pixels_and_with_nothing_else() -> None:
    assert options().fingerprint() == options(seed=5).fingerprint() == options(trigger="sks").fingerprint()
    assert options().fingerprint() != options(size=80).fingerprint()
    assert options(crop="random", seed=1).fingerprint() != options(crop="random", seed=2).fingerprint()


def test_a_phones_photograph_of_fifty_megapixels_is_prepared() -> None:
    """8160 x 6144 is 50.1 megapixels, and the limit was 50."""
    data = encoded(Image.new("RGB", (8160, 6144), "teal"), "JPEG", quality=50)
    decoded, fitted = prepared(data)
    assert (decoded.width, decoded.height) == (8160, 6144)
    assert mean(fitted.image) == pytest.approx([0, 128, 128], abs=3)
    assert PrepareConfig().max_megapixels >= 110  # 108 megapixels are in pockets too


def many_scans(number: int, side: int = 64) -> bytes:
    """A progressive JPEG whose last scan stands there `number` times."""
    data = encoded(drawn(7, side, side), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * number + data[-2:]


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded() -> None:
    """Each scan is a pass over all pixels: 60 of them over 50 megapixels took 8 s, and a few bytes make one more."""
    assert jpeg_scans(many_scans(1), 1000) == 10
    assert jpeg_scans(many_scans(51), 1000) == 60
    assert jpeg_scans(many_scans(1000), 40) == 41
    with pytest.raises(RefusedError, match="more than 40 scans"):
        decode(many_scans(51), options())
    assert decode(many_scans(31), options()).width == 64


@given(st.binary(max_size=200), st.integers(0, 3))
@settings(max_examples=100)
def test_counting_scans_ends_on_any_bytes(tail: bytes, marks: int) -> None:
    assert 0 <= jpeg_scans(b"\xff\xd8" + tail + b"\xff\xda" * marks + tail, 40) <= 41


@pytest.mark.parametrize("kind", ["JPEG", "AVIF", "PNG"])
def test_avif_and_others_are_decoded_whatever_their_name(kind: str) -> None:
    decoded = decode(encoded(Image.new("RGB", (80, 40), (10, 120, 200)), kind), options())
    assert (decoded.width, decoded.height) == (80, 40)
    assert mean(decoded.image) == pytest.approx([10, 120, 200], abs=4)


def heic(image: Image.Image, **save: object) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra `heic` is not installed")
    pillow_heif.register_heif_opener(thumbnails=False)
    return encoded(image, "HEIF", **save)


def test_a_heic_photograph_is_decoded_upright() -> None:
    image = Image.new("RGB", (160, 80), "blue")
    image.paste("red", (0, 0, 80, 80))
    assert mean(decode(heic(image), options()).image.crop((8, 8, 72, 72)))[0] > 240
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode(
        heic(image, exif=exif.tobytes()), options()
    )  # as bytes: only then the turn is written as HEIC does
    assert (decoded.width, decoded.height, decoded.image.size) == (80, 160, (80, 160))
    assert mean(decoded.image.crop((8, 8, 72, 72)))[0] > 240
    assert mean(decoded.image.crop((8, 88, 72, 152)))[2] > 240


def test_a_heic_file_that_is_too_large_or_damaged_is_refused() -> None:
    data = heic(drawn(1, 320, 240))
    with pytest.raises(RefusedError, match="too large"):
        decode(data, options(max_megapixels=0.05))
    for end in (40, 200, len(data) // 2):
        with pytest.raises(RefusedError):
            decode(data[:end], options())


HEIC_HEAD = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40


def test_without_its_package_a_heic_file_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as where it is not installed
    refusals._heif_decoder.cache_clear()
    try:
        with pytest.raises(RefusedError, match="pip install pillow-heif"):
            decode(HEIC_HEAD, options())
    finally:
        refusals._heif_decoder.cache_clear()


@pytest.mark.parametrize("tags", [{0x00FE: 1}, {0xC612: b"\x01\x04\0\0"}])
def test_a_cameras_raw_file_is_refused_whatever_its_suffix(tags: dict[int, object]) -> None:
    """Most raw files are TIFF whose first image is a small preview: learning that would be silent."""
    with pytest.raises(RefusedError, match="raw file"):
        decode(encoded(drawn(1), "TIFF", tiffinfo=tags), options())
    assert decode(encoded(drawn(1), "TIFF"), options()).width == 160
