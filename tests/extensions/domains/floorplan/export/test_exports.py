"""Exports: each format holds the whole plan and is what its readers expect."""

import json
import re
from itertools import pairwise
from math import hypot
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from loraloom.extensions.domains.floorplan.export import FORMATS, Options, export, geojson, rasterise
from loraloom.extensions.domains.floorplan.export.drawing import block_size, draw
from loraloom.extensions.domains.floorplan.export.json_file import parse, read_json, record
from loraloom.extensions.domains.floorplan.plan import Plan, annotate
from loraloom.extensions.domains.floorplan.synthesis import synthesise
from loraloom.extensions.domains.floorplan.vision.scale import Scale, given
from loraloom.extensions.domains.floorplan.vocabulary import STYLES
from loraloom.utils.errors import UserError

SEEDS = range(6)
ESTIMATED = Scale(m_per_px=0.0654321, low=0.05, high=0.08, source="estimated from 3 doors, 95 % interval")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    """Drawn plans, and the real ones where they are."""
    found = [synthesise(seed, corner_doors=True).plan for seed in SEEDS]
    folder = Path(__file__).resolve().parents[6] / "shared" / "data" / "sjh"
    for path in sorted(folder.glob("*.png")):
        rgb = np.asarray(Image.open(path).convert("RGB"))
        found.append(annotate((rgb[:, :, None] == STYLES["sjh"].palette).all(-1).argmax(-1).astype(np.uint8)))
    return found


def ring_plan() -> Plan:
    """A living room around a closed storage: a polygon with a hole."""
    labels = np.zeros((60, 70), np.uint8)
    labels[5:55, 5:65] = 9
    labels[8:52, 8:62] = 1
    labels[20:40, 20:50] = 9
    labels[23:37, 23:47] = 7
    labels[37:40, 30:42] = 11
    return annotate(labels)


def same(first: Plan, second: Plan) -> bool:
    return (
        (first.labels == second.labels).all()
        and first.rooms == second.rooms
        and first.openings == second.openings
        and first.connections == second.connections
        and first.positions == second.positions
    )


@pytest.mark.parametrize("suffix", [".svg", ".dxf", ".geojson"])
def test_a_drawing_reads_back_as_the_same_plan(suffix: str, plans: list[Plan], tmp_path: Path) -> None:
    if suffix == ".dxf":
        pytest.importorskip("ezdxf", reason="the export extra is not installed")
    read = getattr(rasterise, f"read_{suffix[1:]}")
    for index, plan in enumerate([*plans, ring_plan()]):
        # An awkward scale, an origin far from zero and a turned north must not cost a pixel.
        options = Options(scale=ESTIMATED, origin=(-33.86, 151.21), north=27.5) if index % 2 else Options()
        path = export(plan, tmp_path / f"{index}{suffix}", options)
        assert same(annotate(read(path.read_bytes())), plan)


def test_json_reads_back_exactly(plans: list[Plan], tmp_path: Path) -> None:
    for index, plan in enumerate([*plans, ring_plan()]):
        assert same(read_json(export(plan, tmp_path / f"{index}.json")), plan)


def test_json_says_what_the_text_says(plans: list[Plan]) -> None:
    plan = plans[0]
    value = json.loads(json.dumps(record(plan, seed=7, id="a")))
    assert value["seed"] == 7
    assert value["size"] == 256
    assert value["m_per_px"] == 0.0703125
    assert [f"{room['type']} #{room['n']}" for room in value["rooms"]] == [str(room.id) for room in plan.rooms]
    assert value["rooms"][0]["area_px"] == plan.rooms[0].area_px
    assert value["text"].startswith("SJH-Style FloorPlan Generation \n")
    assert len(value["connections"]) == len(plan.connections)
    assert len(value["sha256_png"]) == 64
    assert {door["kind"] for door in value["doors"]} <= {"interior door", "front door"}
    assert all(window["room"] for window in value["windows"])


@pytest.mark.parametrize(
    "value", [[], {}, {"size": 0}, {"size": 256}, {"size": 10**9, "walls": []}, {"size": [1]},
              {"size": 9, "walls": [{"polygon": [[0]]}], "rooms": [], "windows": [], "doors": []},
              {"size": 9, "walls": [], "rooms": [{"type": "cave", "polygon": []}], "windows": [], "doors": []},
              {"size": 9, "walls": [{"polygon": [[0, float("nan")], [1, 1]]}], "rooms": [], "windows": [], "doors": []}],
)  # fmt: skip
def test_a_wrong_record_is_refused(value: object) -> None:
    with pytest.raises(UserError):
        parse(value)


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.json is not JSON"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("data", [b"", b"<svg/>", b"{}", b"[]", b"0\nEOF\n", b"\xff\xfe"])
def test_a_drawing_that_is_not_ours_is_refused(data: bytes) -> None:
    for read in (rasterise.read_svg, rasterise.read_geojson):
        with pytest.raises(UserError):
            read(data)


def test_svg_is_true_to_scale_and_in_layers(plans: list[Plan], tmp_path: Path) -> None:
    path = export(plans[0], tmp_path / "plan.svg", Options(title="A & B"))
    root = ElementTree.parse(path).getroot()
    assert [group.get("id") for group in root.findall(f"{SVG}g")] == [
        "rooms", "walls", "windows", "doors", "names", "dimensions", "scale-bar", "north",
    ]  # fmt: skip
    _, _, width, height = (float(value) for value in root.attrib["viewBox"].split())
    assert float(root.attrib["width"][:-2]) == pytest.approx(width / 100, abs=1e-3)
    assert float(root.attrib["height"][:-2]) == pytest.approx(height / 100, abs=1e-3)
    assert root.findtext(f"{SVG}title") == "A & B"
    assert "legend" in ids(plans[0], tmp_path, Options(legend=True))
    assert "north" not in ids(plans[0], tmp_path, Options(north=None))


def ids(plan: Plan, folder: Path, options: Options) -> set[str | None]:
    root = ElementTree.parse(export(plan, folder / "other.svg", options)).getroot()
    return {group.get("id") for group in root.findall(f"{SVG}g")}


def test_an_estimated_scale_is_not_drawn_as_if_it_were_known(plans: list[Plan], tmp_path: Path) -> None:
    text = export(plans[0], tmp_path / "plan.svg", Options(scale=ESTIMATED)).read_text(encoding="utf-8")
    assert "about 1:100; scale estimated from 3 doors" in text
    assert re.search(r">\d+\.\d - \d+\.\d m²<", text)
    assert " × " not in text  # noqa: RUF001


def test_doors_swing_into_rooms_and_names_lie_inside(plans: list[Plan]) -> None:
    for plan in plans:
        drawing = draw(plan)
        for leaf in drawing.leaves:
            assert hypot(leaf.tip[0] - leaf.hinge[0], leaf.tip[1] - leaf.hinge[1]) == pytest.approx(
                hypot(leaf.jamb[0] - leaf.hinge[0], leaf.jamb[1] - leaf.hinge[1])
            )
            middle = [(3 * leaf.hinge[i] + leaf.tip[i] + 2 * leaf.jamb[i]) / 6 for i in (0, 1)]
            assert plan.instances[int(middle[1]), int(middle[0])] > 0
        for caption in drawing.captions:
            width, height = block_size(caption.lines, caption.factor)
            if caption.upright:
                width, height = height, width
            x, y = caption.at
            inside = plan.mask(caption.room)[
                int(y - height / 2 + 0.5) : int(y + height / 2), int(x - width / 2 + 0.5) : int(x + width / 2)
            ]
            assert inside.all()
        assert [caption.room for caption in drawing.captions] == [room.id for room in plan.rooms]


def test_dxf_passes_the_audit_and_has_its_layers(plans: list[Plan], tmp_path: Path) -> None:
    ezdxf = pytest.importorskip("ezdxf", reason="the export extra is not installed")
    for index, plan in enumerate((plans[0], plans[-1])):
        document = ezdxf.readfile(export(plan, tmp_path / f"{index}.dxf", Options(hatch=index == 0)))
        audit = document.audit()
        assert not audit.errors
        assert not audit.fixes
        assert document.header["$INSUNITS"] == 4
        space = document.modelspace()
        layers = {entity.dxf.layer for entity in space}
        assert {"A-WALL", "A-DOOR", "A-GLAZ", "A-AREA", "A-ANNO-TEXT", "A-ANNO-DIMS"} <= layers
        assert ("A-WALL-PATT" in layers) == (index == 0)
        assert all(line.closed for line in space.query("LWPOLYLINE"))
        for arc in space.query("ARC"):
            assert (arc.dxf.end_angle - arc.dxf.start_angle) % 360 == pytest.approx(90)
        names = {text.dxf.text.rstrip(" 0123456789").lower() for text in space.query('TEXT[layer=="A-ANNO-TEXT"]')}
        assert {room.id.kind for room in plan.rooms} <= names


def test_geojson_is_metric_where_it_is_put(tmp_path: Path) -> None:
    plan = ring_plan()
    value = json.loads(
        export(plan, tmp_path / "a.geojson", Options(scale=given(0.1), origin=(60.0, 10.0))).read_bytes()
    )
    assert value["loraloom"]["georeferenced"]
    features = value["features"]
    assert {feature["properties"]["feature_type"] for feature in features} == {"unit", "opening", "wall"}
    living = next(feature for feature in features if feature["properties"]["category"] == "living room")
    outer, hole = living["geometry"]["coordinates"]
    assert outer[0] == outer[-1]
    assert turn(outer) > 0 > turn(hole)  # RFC 7946: outer rings counter-clockwise
    # At 60 degrees north a degree of longitude is 55 800 m, one of latitude 111 412 m (table of the US NGA).
    east, north = geojson.metres_per_degree(60.0)
    assert east == pytest.approx(55800, abs=2)
    assert north == pytest.approx(111412, abs=2)
    longitudes = [place[0] for place in outer]
    assert (max(longitudes) - min(longitudes)) * east == pytest.approx(5.4, abs=1e-3)
    assert living["properties"]["local_m"][0][0] == [0.8, 5.2]


def turn(ring: list[list[float]]) -> float:
    x0, y0 = ring[0]
    return sum((a[0] - x0) * (b[1] - y0) - (b[0] - x0) * (a[1] - y0) for a, b in pairwise(ring))


def test_geojson_without_origin_says_so(tmp_path: Path) -> None:
    value = json.loads(export(ring_plan(), tmp_path / "a.geojson").read_bytes())
    assert not value["loraloom"]["georeferenced"]
    assert "latitude 0, longitude 0" in value["loraloom"]["note"]
    with pytest.raises(UserError, match="origin out of range"):
        export(ring_plan(), tmp_path / "b.geojson", Options(origin=(123.0, 0.0)))


def test_ifc_is_valid_and_has_every_room_and_opening(plans: list[Plan], tmp_path: Path) -> None:
    ifcopenshell = pytest.importorskip("ifcopenshell", reason="the export extra is not installed")
    validate = pytest.importorskip("ifcopenshell.validate", reason="this ifcopenshell cannot validate")
    plan = plans[0]
    model = ifcopenshell.open(str(export(plan, tmp_path / "plan.ifc")))
    log = validate.json_logger()
    validate.validate(model, log)
    assert log.statements == []
    assert model.schema == "IFC4"
    assert sorted(space.Name for space in model.by_type("IfcSpace")) == sorted(str(room.id) for room in plan.rooms)
    assert len(model.by_type("IfcWindow")) == sum(opening.kind == "window" for opening in plan.openings)
    assert len(model.by_type("IfcDoor")) >= sum(opening.kind != "window" for opening in plan.openings)
    filled = model.by_type("IfcRelFillsElement")
    assert len(filled) == len(model.by_type("IfcDoor")) + len(model.by_type("IfcWindow"))
    holes = model.by_type("IfcOpeningElement")
    assert all(len(hole.VoidsElements) == 1 for hole in holes)


def test_ifc_spaces_read_back_as_the_same_rooms(tmp_path: Path) -> None:
    ifcopenshell = pytest.importorskip("ifcopenshell", reason="the export extra is not installed")
    from loraloom.extensions.domains.floorplan.vision.outlines import fill

    plan = ring_plan()
    model = ifcopenshell.open(str(export(plan, tmp_path / "plan.ifc")))
    for room in plan.rooms:
        (space,) = [space for space in model.by_type("IfcSpace") if space.Name == str(room.id)]
        profile = space.Representation.Representations[0].Items[0].SweptArea
        lines = [profile.OuterCurve, *getattr(profile, "InnerCurves", ())]
        corners = [[point.Coordinates for point in line.Points[:-1]] for line in lines]
        rings = [[(round(x / 70.3125), 60 - round(y / 70.3125)) for x, y in ring] for ring in corners]
        assert (fill(rings, (60, 70)) == plan.mask(room.id)).all()


def test_png_has_exactly_the_palette(plans: list[Plan], tmp_path: Path) -> None:
    plan = plans[0]
    pixels = np.asarray(Image.open(export(plan, tmp_path / "plan.png", Options(style="plain"))))
    assert (pixels == STYLES["plain"].palette[plan.labels]).all()


def test_export_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown export format"):
        export(ring_plan(), tmp_path / "plan.dwg")
    with pytest.raises(UserError, match="no room to export"):
        export(annotate(np.zeros((16, 16), np.uint8)), tmp_path / "plan.svg")
    labels = np.zeros((256, 256), np.uint8)
    labels[::8, ::8] = 1
    with pytest.raises(UserError, match="too many rooms to export"):
        export(annotate(labels), tmp_path / "plan.svg")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("suffix", "module"), [(".dxf", "ezdxf"), (".ifc", "ifcopenshell")])
def test_a_missing_library_is_named(suffix: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(UserError, match=r"--extra export"):
        export(ring_plan(), tmp_path / f"plan{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_a_title_of_any_letters_is_one_line(plans: list[Plan], tmp_path: Path) -> None:
    options = Options(title="My\n0\r\nEOF\u2028\x00flat \ud800\uffff\t집 ")
    assert options.title == "My 0  EOF  flat \ufffd\ufffd 집"
    assert Options(title=" \n").title == "Floor plan"
    for suffix in FORMATS:
        if suffix not in (".ifc", ".dxf"):
            export(plans[0], tmp_path / f"a{suffix}", options)
    ezdxf = pytest.importorskip("ezdxf", reason="the export extra is not installed")
    document = ezdxf.readfile(export(plans[0], tmp_path / "a.dxf", options))
    assert document.header.custom_vars.get("TITLE") == options.title


def test_every_format_has_a_writer() -> None:
    from importlib import import_module

    for name in FORMATS.values():
        assert callable(import_module(f"loraloom.extensions.domains.floorplan.export.{name}").as_bytes)
