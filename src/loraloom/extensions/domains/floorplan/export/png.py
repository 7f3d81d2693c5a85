"""The plan's own image. In: a plan and a style. Out: bytes of an RGB PNG, one pixel per pixel of the plan."""

from PIL import Image

from loraloom.utils.image_files import png_bytes

from ..plan import Plan
from ..vocabulary import STYLES
from .drawing import Options


def as_bytes(plan: Plan, options: Options) -> bytes:
    """The file; each pixel has exactly the style's colour of its class."""
    return png_bytes(Image.fromarray(STYLES[options.style].palette[plan.labels]), level=9)
