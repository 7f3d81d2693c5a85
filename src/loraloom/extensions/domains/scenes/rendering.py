"""Render captioned images: a seed gives a scene, the scene an image and its caption.

In: a seed and the name of a style. Out: a `CaptionedImage`, the same for the same seed on every machine.
"""

from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from loraloom.extensions.domains.scenes.captions import caption, styled
from loraloom.extensions.domains.scenes.compose import compose
from loraloom.extensions.domains.scenes.pen import COLOURS, FINE, Pen
from loraloom.extensions.domains.scenes.scene import Group, Placed, Scene, truth
from loraloom.extensions.domains.scenes.style_names import STYLES
from loraloom.extensions.domains.scenes.worlds import paint_ground, plain_backdrop, sky
from loraloom.utils.errors import UserError, did_you_mean

_ORDER = {"far": 0, "air": 1}
"""Rendering order of lanes; others have 2. Far things come before the ground, which hides their feet; a skyline must not
hide a star."""


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """An image with a true caption.

    Attributes:
        seed: Seed of the image.
        image: RGB image, 256 x 256.
        caption: Caption; ends in `, <style> style` if the style is not flat.
        truth: World, things, colours, counts and boxes as JSON values; see `scene.truth`.
    """

    seed: int
    image: Image.Image
    caption: str
    truth: dict[str, Any]


def check_style(style: str) -> None:
    """Refuse an unknown style.

    Raises:
        UserError: The style is unknown; the nearest names are listed.
    """
    if style not in STYLES:
        raise UserError("unknown style of scenes", got=style, fix=did_you_mean(style, STYLES))


def render(scene: Scene) -> Image.Image:
    """The flat RGB image of a scene, 256 x 256."""
    image = sky(scene.world, scene.time, scene.detail) if scene.world else plain_backdrop(scene.background)
    canvas = ImageDraw.Draw(image, "RGBA")
    ordered = sorted(
        ((group, item) for group in scene.groups for item in group.items), key=lambda pair: _nearness(*pair)
    )
    behind = [pair for pair in ordered if pair[0].kind.lane == "far"]
    for pair in behind:
        _put(canvas, scene, *pair)
    if scene.world:
        paint_ground(image, scene.world, scene.time, scene.detail)
    for pair in ordered[len(behind) :]:
        _put(canvas, scene, *pair)
    return image.reduce(FINE)


def _nearness(group: Group, item: Placed) -> tuple[int, float]:
    return _ORDER.get(group.kind.lane, 2), item.box[3]


def _put(canvas: ImageDraw.ImageDraw, scene: Scene, group: Group, item: Placed) -> None:
    if scene.world and group.kind.lane not in _ORDER:
        _shadow(canvas, item)
    pen = Pen(canvas, item.box, item.flipped, lit=scene.time == "night")
    group.kind.render(pen, COLOURS[group.colour], COLOURS[group.second or "brown"], item.variant)


def _shadow(canvas: ImageDraw.ImageDraw, item: Placed) -> None:
    left, top, right, foot = (value * FINE for value in item.box)
    width, depth = right - left, min((foot - top) * 0.07, 4 * FINE)
    canvas.ellipse((left + width * 0.04, foot - depth, right - width * 0.04, foot + depth * 0.6), fill=(30, 34, 60, 70))


def words(seed: int, style: str = "flat") -> tuple[str, dict[str, Any]]:
    """Caption and truth of a seed's image, without rendering it."""
    check_style(style)
    scene = compose(seed)
    return styled(caption(scene), style, seed), truth(scene)


def synthesize(seed: int, style: str = "flat") -> CaptionedImage:
    """The captioned image of a seed; the scene of a seed is the same in every style.

    Raises:
        UserError: The style is unknown.
    """
    check_style(style)
    scene = compose(seed)
    image = render(scene)
    if style != "flat":
        from loraloom.extensions.domains.scenes.styles import stylise  # scipy is not needed for flat images

        image = stylise(image, style, seed)
    return CaptionedImage(seed, image, styled(caption(scene), style, seed), truth(scene))
