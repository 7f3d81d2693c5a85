"""Building model: IFC4 by ifcopenshell, in millimetres, y upwards.

In: a plan and options. Out: bytes of an .ifc: project, site, building, storey; an IfcSpace for each room, an IfcWall
for each straight piece of wall, and for each straight piece of an opening an IfcOpeningElement that voids its wall and
is filled by an IfcDoor or IfcWindow. All bodies are vertical extrusions.
"""

# pyright: basic
# ifcopenshell's entities get their attributes from the schema at run time.

from collections.abc import Iterable
from typing import Any

from loraloom.utils.errors import UserError

from ..plan import Plan
from ..vision.outlines import Polygon, rectangles
from ..vision.pixels import Box
from ..vision.scale import areas
from ..vocabulary import WALL
from .drawing import Options, Shape, draw, opening_boxes

_DOOR_MM, _SILL_MM, _WINDOW_MM = 2100.0, 900.0, 1300.0
"""Height of doors; sill and height of windows, metres. A plan does not contain them."""


def library() -> Any:
    """The module ifcopenshell.

    Raises:
        UserError: It is not installed.
    """
    try:
        import ifcopenshell
        import ifcopenshell.guid
    except ImportError:
        raise UserError(
            "exporting .ifc needs the package ifcopenshell",
            fix="uv run --extra export loraloom plan export …, or pip install ifcopenshell",
        ) from None
    return ifcopenshell


class _Model:
    """A file under construction; positions are given in pixels of the plan and written in millimetres, y upwards."""

    def __init__(self, options: Options, rows: int) -> None:
        self.ifc = library()
        self.file = self.ifc.file(schema="IFC4")
        self.mm, self.rows, self.options = options.scale.mm_per_px, rows, options
        make = self.file.create_entity
        up, along = make("IfcDirection", (0.0, 0.0, 1.0)), make("IfcDirection", (1.0, 0.0, 0.0))
        self.up, self.origin = up, make("IfcAxis2Placement3D", make("IfcCartesianPoint", (0.0, 0.0, 0.0)), up, along)
        self.context = make("IfcGeometricRepresentationContext", None, "Model", 3, 1e-5, self.origin, None)
        self.body = make(
            "IfcGeometricRepresentationSubContext",
            "Body",
            "Model",
            None,
            None,
            None,
            None,
            self.context,
            None,
            "MODEL_VIEW",
            None,
        )

    def rooted(self, kind: str, name: str | None, **attributes: Any) -> Any:
        """An entity with an identifier of its own."""
        return self.file.create_entity(kind, GlobalId=self.ifc.guid.new(), Name=name, **attributes)

    def placed(self, within: Any = None, height: float = 0.0) -> Any:
        point = self.file.create_entity("IfcCartesianPoint", (0.0, 0.0, height))
        axes = self.file.create_entity("IfcAxis2Placement3D", point, None, None)
        return self.file.create_entity("IfcLocalPlacement", within, axes)

    def line(self, ring: Iterable[tuple[int, int]]) -> Any:
        make = self.file.create_entity
        points = [
            make("IfcCartesianPoint", (round(x * self.mm, 6), round((self.rows - y) * self.mm, 6))) for x, y in ring
        ]
        return make("IfcPolyline", [*points, points[0]])

    def solid(self, polygon: Polygon, height: float) -> Any:
        """Extrusion of a polygon as the shape of a product."""
        make = self.file.create_entity
        outer = self.line(polygon.outer)
        if polygon.holes:
            profile = make(
                "IfcArbitraryProfileDefWithVoids", "AREA", None, outer, [self.line(ring) for ring in polygon.holes]
            )
        else:
            profile = make("IfcArbitraryClosedProfileDef", "AREA", None, outer)
        body = make("IfcExtrudedAreaSolid", profile, self.origin, self.up, height)
        shape = make("IfcShapeRepresentation", self.body, "Body", "SweptSolid", [body])
        return make("IfcProductDefinitionShape", None, None, [shape])


def _box_polygon(box: Box) -> Polygon:
    left, top, right, bottom = box
    return Polygon(((left, top), (left, bottom), (right, bottom), (right, top)), ())


def _overlap(first: Box, second: Box) -> Box | None:
    left, top = max(first[0], second[0]), max(first[1], second[1])
    right, bottom = min(first[2], second[2]), min(first[3], second[3])
    return (left, top, right, bottom) if left < right and top < bottom else None


def as_bytes(plan: Plan, options: Options) -> bytes:
    """The file, ASCII as STEP requires.

    Raises:
        UserError: ifcopenshell is not installed.
    """
    model = _Model(options, plan.labels.shape[0])
    storey = _skeleton(model)
    drawing = draw(plan, options.scale)
    height = options.storey_m * 1000
    spaces: list[Any] = []
    for shape, area in zip(drawing.rooms, areas(plan, options.scale), strict=True):
        space = model.rooted(
            "IfcSpace",
            str(shape.room),
            ObjectPlacement=model.placed(storey.ObjectPlacement),
            Representation=model.solid(shape.polygon, height),
            LongName=shape.kind,
            CompositionType="ELEMENT",
            PredefinedType="EXTERNAL" if shape.kind == "balcony" else "INTERNAL",
        )
        _quantity(model, space, area.m2)
        spaces.append(space)
    model.rooted("IfcRelAggregates", None, RelatingObject=storey, RelatedObjects=spaces)
    products: list[Any] = []
    walls: list[tuple[Box, Any]] = []
    for box in rectangles(plan.labels >= WALL):
        wall = model.rooted(
            "IfcWall",
            f"Wall {len(walls) + 1}",
            ObjectPlacement=model.placed(storey.ObjectPlacement),
            Representation=model.solid(_box_polygon(box), height),
            PredefinedType="SOLIDWALL",
        )
        walls.append((box, wall))
        products.append(wall)
    for shape in drawing.openings:
        for box in opening_boxes(plan, shape.kind, shape.polygon):
            products += _opening(model, shape, box, walls)
    model.rooted("IfcRelContainedInSpatialStructure", None, RelatedElements=products, RelatingStructure=storey)
    return model.file.to_string().encode("ascii")


def _skeleton(model: _Model) -> Any:
    """Project, site, building and storey with units; returns the storey."""
    make = model.file.create_entity
    units = make(
        "IfcUnitAssignment",
        [
            make("IfcSIUnit", None, "LENGTHUNIT", "MILLI", "METRE"),
            make("IfcSIUnit", None, "AREAUNIT", None, "SQUARE_METRE"),
            make("IfcSIUnit", None, "VOLUMEUNIT", None, "CUBIC_METRE"),
            make("IfcSIUnit", None, "PLANEANGLEUNIT", None, "RADIAN"),
        ],
    )
    about = f"Scale: {model.options.scale.source}. Heights are usual ones, not from the plan."
    project = model.rooted(
        "IfcProject",
        model.options.title,
        Description=about,
        RepresentationContexts=[model.context],
        UnitsInContext=units,
    )
    parent, placement = project, None
    for kind, name in (("IfcSite", "Site"), ("IfcBuilding", "Building"), ("IfcBuildingStorey", "Storey")):
        placement = model.placed(placement)
        child = model.rooted(kind, name, ObjectPlacement=placement, CompositionType="ELEMENT")
        model.rooted("IfcRelAggregates", None, RelatingObject=parent, RelatedObjects=[child])
        parent = child
    return parent


def _quantity(model: _Model, space: Any, square_metres: float) -> None:
    area = model.file.create_entity("IfcQuantityArea", "NetFloorArea", None, None, square_metres, None)
    quantities = model.rooted("IfcElementQuantity", "Qto_SpaceBaseQuantities", Quantities=[area])
    model.rooted("IfcRelDefinesByProperties", None, RelatedObjects=[space], RelatingPropertyDefinition=quantities)


def _opening(model: _Model, shape: Shape, box: Box, walls: list[tuple[Box, Any]]) -> list[Any]:
    """Cut holes into every wall that the box meets; the door or window is put into the largest hole."""
    window = shape.kind == "window"
    sill, high = (_SILL_MM, _WINDOW_MM) if window else (0.0, _DOOR_MM)
    parts = [(part, wall) for outer, wall in walls if (part := _overlap(box, outer))]
    parts.sort(key=lambda entry: (entry[0][2] - entry[0][0]) * (entry[0][3] - entry[0][1]), reverse=True)
    made: list[Any] = []
    for index, (part, wall) in enumerate(parts):
        hole = model.rooted(
            "IfcOpeningElement",
            f"Opening for {shape.kind}",
            ObjectPlacement=model.placed(wall.ObjectPlacement, sill),
            Representation=model.solid(_box_polygon(part), high),
            PredefinedType="OPENING",
        )
        model.rooted("IfcRelVoidsElement", None, RelatingBuildingElement=wall, RelatedOpeningElement=hole)
        if index > 0:
            continue
        width = max(part[2] - part[0], part[3] - part[1]) * model.mm
        element = model.rooted(
            "IfcWindow" if window else "IfcDoor",
            shape.kind.capitalize(),
            ObjectPlacement=model.placed(hole.ObjectPlacement),
            Description=", ".join(map(str, shape.rooms)) or None,
            Representation=model.solid(_box_polygon(part), high),
            OverallHeight=high,
            OverallWidth=width,
            PredefinedType="WINDOW" if window else "DOOR",
        )
        model.rooted("IfcRelFillsElement", None, RelatingOpeningElement=hole, RelatedBuildingElement=element)
        made.append(element)
    return made
