"""Drawing for CAD: AutoCAD DXF (R2018) in millimetres, y upwards.

In: a plan and options. Out: bytes of a .dxf by ezdxf. Layers: A-WALL, A-WALL-PATT (the optional hatch), A-DOOR, A-GLAZ,
A-AREA, A-ANNO-TEXT, A-ANNO-DIMS. Walls, thresholds, windows and rooms are closed LWPOLYLINEs; leaves LINE and ARC,
panes LINE. Each polyline carries its class and room as extended data of the application LORALOOM, so that the file
reads back.
"""

# pyright: basic
# ezdxf's factory methods are typed by mixins that strict mode does not follow.

from io import StringIO
from math import atan2, degrees, hypot
from typing import Any

from loraloom.utils.errors import UserError

from ..plan import Plan
from .drawing import NAME_PX, NOTE_PX, Drawing, Leaf, Options, Shape, Spot, draw

APP = "LORALOOM"

LAYERS = {
    "A-WALL": (7, 50),
    "A-WALL-PATT": (8, 13),
    "A-DOOR": (30, 25),
    "A-GLAZ": (4, 18),
    "A-AREA": (9, 13),
    "A-ANNO-TEXT": (7, 18),
    "A-ANNO-DIMS": (8, 13),
}
"""AutoCAD colour index and line weight in hundredths of a millimetre; names by the US National CAD Standard."""


def library() -> Any:
    """The module ezdxf.

    Raises:
        UserError: It is not installed.
    """
    try:
        import ezdxf
    except ImportError:
        raise UserError(
            "exporting .dxf needs the package ezdxf",
            fix="uv run --extra export loraloom plan export …, or pip install ezdxf",
        ) from None
    return ezdxf


class _Model:
    """Adds entities to a model space; positions are given in pixels and written in millimetres, y upwards."""

    def __init__(self, document: Any, mm_per_px: float, height_px: int) -> None:
        self.space = document.modelspace()
        self.mm, self.height = mm_per_px, height_px

    def at(self, spot: Spot) -> tuple[float, float]:
        return round(spot[0] * self.mm, 6), round((self.height - spot[1]) * self.mm, 6)

    def area(self, shape: Shape, layer: str) -> None:
        for ring in shape.polygon.rings:
            line = self.space.add_lwpolyline(
                [self.at(corner) for corner in ring], close=True, dxfattribs={"layer": layer}
            )
            line.set_xdata(APP, [(1000, shape.kind), (1000, str(shape.room or ""))])

    def leaf(self, leaf: Leaf) -> None:
        hinge, tip, jamb = self.at(leaf.hinge), self.at(leaf.tip), self.at(leaf.jamb)
        self.space.add_line(hinge, tip, dxfattribs={"layer": "A-DOOR"})
        angles = [degrees(atan2(end[1] - hinge[1], end[0] - hinge[0])) % 360 for end in (tip, jamb)]
        # An ARC runs counter-clockwise: it starts at the end from which the other one is 90 degrees ahead.
        start, stop = angles if 0 < (angles[1] - angles[0]) % 360 < 180 else reversed(angles)
        radius = hypot(tip[0] - hinge[0], tip[1] - hinge[1])
        self.space.add_arc(hinge, radius, start, stop, dxfattribs={"layer": "A-DOOR"})


def as_bytes(plan: Plan, options: Options) -> bytes:
    """The file, UTF-8.

    Raises:
        UserError: ezdxf is not installed.
    """
    ezdxf = library()
    document = ezdxf.new("R2018", setup=True)
    document.header["$INSUNITS"] = 4  # millimetres
    document.header["$MEASUREMENT"] = 1  # metric
    document.appids.add(APP)
    for name, (colour, weight) in LAYERS.items():
        document.layers.add(name, color=colour, lineweight=weight)
    rows, columns = plan.labels.shape
    for name, value in (
        ("LORALOOM_MM_PER_PX", repr(options.scale.mm_per_px)),
        ("LORALOOM_SIZE", f"{columns} {rows}"),
        ("LORALOOM_SCALE", options.scale.source),
        ("TITLE", options.title),
    ):
        document.header.custom_vars.append(name, value)
    drawing = draw(plan, options.scale)
    model = _Model(document, options.scale.mm_per_px, rows)
    for shape in drawing.rooms:
        model.area(shape, "A-AREA")
    for shape in drawing.walls:
        model.area(shape, "A-WALL")
        if options.hatch:
            hatch = model.space.add_hatch(dxfattribs={"layer": "A-WALL-PATT"})
            for index, ring in enumerate(shape.polygon.rings):
                hatch.paths.add_polyline_path(
                    [model.at(corner) for corner in ring], is_closed=True, flags=1 if index == 0 else 16
                )
    for shape in drawing.openings:
        model.area(shape, "A-GLAZ" if shape.kind == "window" else "A-DOOR")
    for leaf in drawing.leaves:
        model.leaf(leaf)
    for pane in drawing.panes:
        layer = "A-GLAZ" if pane.kind == "window" else "A-DOOR"
        model.space.add_line(model.at(pane.start), model.at(pane.stop), dxfattribs={"layer": layer})
    _texts(model, drawing)
    _dimensions(model, drawing)
    file = StringIO()
    document.write(file)
    return document.encode(file.getvalue())


def _texts(model: _Model, drawing: Drawing) -> None:
    from ezdxf.enums import TextEntityAlignment

    for caption in drawing.captions:
        heights = [NAME_PX * caption.factor, *[NOTE_PX * caption.factor] * (len(caption.lines) - 1)]
        offset = -1.25 * sum(heights) / 2
        for line, height in zip(caption.lines, heights, strict=True):
            middle = offset + 1.25 * height / 2
            offset += 1.25 * height
            x, y = caption.at
            spot = (x + middle, y) if caption.upright else (x, y + middle)
            text = model.space.add_text(
                line,
                height=0.72 * height * model.mm,  # a DXF height is that of capitals, not of the em square
                rotation=90 if caption.upright else 0,
                dxfattribs={"layer": "A-ANNO-TEXT"},
            )
            text.set_placement(model.at(spot), align=TextEntityAlignment.MIDDLE_CENTER)


def _dimensions(model: _Model, drawing: Drawing) -> None:
    """Dimension lines: the outer width above the plan and the outer depth to its left."""
    left, top, right, bottom = drawing.box
    look = {
        "dimtxt": 250,
        "dimasz": 120,
        "dimexe": 80,
        "dimexo": 120,
        "dimgap": 60,
        "dimdec": 0,
        "dimlfac": 1,
        "dimscale": 1,
    }
    for first, second, base, angle in (
        ((left, top), (right, top), (left, top - 9), 0),
        ((left, bottom), (left, top), (left - 9, top), 90),
    ):
        dimension = model.space.add_linear_dim(
            base=model.at(base),
            p1=model.at(first),
            p2=model.at(second),
            angle=angle,
            dimstyle="EZDXF",
            override=look,
            dxfattribs={"layer": "A-ANNO-DIMS"},
        )
        dimension.render()
