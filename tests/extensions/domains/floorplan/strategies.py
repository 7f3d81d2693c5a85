"""Random texts and plans for the tests of the structured text."""

import numpy as np
from hypothesis import strategies as st

from loraloom.extensions.domains.floorplan.plan import Labels, Position
from loraloom.extensions.domains.floorplan.text.spec import Spec
from loraloom.extensions.domains.floorplan.vocabulary import DIRECTIONS, DOOR, ROOM_TYPES, STYLES, WALL, RoomId

rooms = st.builds(RoomId, st.sampled_from(ROOM_TYPES), st.integers(1, 4))
counts = st.lists(
    st.tuples(st.sampled_from(ROOM_TYPES), st.integers(0, 12)), min_size=1, max_size=8, unique_by=lambda item: item[0]
).map(tuple)
connections = st.lists(st.tuples(rooms, rooms), max_size=8).map(tuple)
positions = st.lists(st.builds(Position, rooms, st.sampled_from(DIRECTIONS), rooms), max_size=8).map(tuple)

specs = st.builds(
    Spec,
    style=st.sampled_from(sorted(STYLES)),
    counts=st.none() | counts,
    connections=st.none() | connections,
    positions=st.none() | positions,
).filter(lambda spec: (spec.counts, spec.connections, spec.positions) != (None, None, None))
"""Anything that can be written down, sensible or not."""


@st.composite
def label_maps(draw: st.DrawFn) -> Labels:
    """Small maps of blocks: rooms in touch and apart, several of a type, odd shapes, doors between them."""
    height, width = draw(st.integers(2, 5)), draw(st.integers(2, 5))
    classes = st.sampled_from([0, 1, 2, 3, 4, 4, 5, 5, 5, 6, WALL, DOOR])
    cells = draw(st.lists(classes, min_size=height * width, max_size=height * width))
    rows = draw(st.lists(st.integers(1, 7), min_size=height, max_size=height))
    columns = draw(st.lists(st.integers(1, 7), min_size=width, max_size=width))
    grid = np.array(cells, np.uint8).reshape(height, width)
    return grid.repeat(rows, axis=0).repeat(columns, axis=1)
