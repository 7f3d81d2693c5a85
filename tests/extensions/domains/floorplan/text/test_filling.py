"""What a text leaves open is filled in from a plan that fits it, and nothing that it says is changed."""

from dataclasses import replace

import pytest

from loraloom.extensions.domains.floorplan import DOMAIN
from loraloom.extensions.domains.floorplan.plan import Position
from loraloom.extensions.domains.floorplan.synthesis import plans_of, synthesise
from loraloom.extensions.domains.floorplan.text.check import check_spec
from loraloom.extensions.domains.floorplan.text.filling import filled, misfit, unplaced
from loraloom.extensions.domains.floorplan.text.spec import Spec, parse_spec, spec_of
from loraloom.extensions.domains.floorplan.vocabulary import RoomId

KINDS = ["master room", "kitchen", "bathroom", "bedroom", "bedroom", "balcony"]


def full(seed: int) -> Spec:
    """The text of a plan with thin walls."""
    return next(spec for n in range(seed, seed + 50) if not unplaced(spec := spec_of(synthesise(n).plan)))


@pytest.mark.parametrize("seed", range(6))
def test_every_room_gets_a_place_and_all_that_was_said_stays(seed: int) -> None:
    asked = replace(full(10 * seed), positions=())
    more = filled(asked, seed)
    assert not unplaced(more)
    assert more.counts == asked.counts and more.connections == asked.connections
    assert not [problem for problem in check_spec(more) if problem.kind == "error"]
    assert filled(asked, seed) == more
    assert any(filled(asked, other) != more for other in range(seed + 1, seed + 4))


def test_places_come_from_a_plan_that_has_the_connections() -> None:
    found = 0
    for seed in range(6):
        asked = replace(full(10 * seed), positions=())
        more = filled(asked, seed)
        plans = plans_of(
            [kind for kind, count in asked.counts or () for _ in range(count) if kind != "living room"], seed, 120
        )
        fitting = next((plan for plan in plans if not misfit(asked, plan)), None)
        found += fitting is not None and set(more.positions or ()) == set(fitting.positions)
    assert found >= 4


def test_a_stated_position_stays_and_is_met_by_the_others() -> None:
    stated = Position(RoomId("kitchen", 1), "left-of", RoomId("living room", 1))
    asked = Spec(
        style="sjh", counts=(("living room", 1), ("kitchen", 1), ("bedroom", 2)), connections=None, positions=(stated,)
    )
    more = filled(asked, 1)
    assert stated in (more.positions or ())
    assert sum({each.subject, each.object} == {stated.subject, stated.object} for each in more.positions or ()) == 1
    assert dict(more.counts or ()) | {"kitchen": 1, "bedroom": 2} == dict(more.counts or ())
    assert more.connections  # the text had none, and models are taught texts with them
    assert not unplaced(more)


def test_plans_have_the_rooms_that_are_asked_for_and_thin_walls() -> None:
    plans = list(plans_of(KINDS, 3, 20))
    assert len(plans) > 3
    for plan in plans:
        rooms = [room.id.kind for room in plan.rooms]
        assert sorted(rooms) == sorted(["living room", *KINDS])
        assert plan.positions


@pytest.mark.parametrize(
    "spec",
    [
        full(0),
        Spec(style="sjh", counts=None, connections=((RoomId("kitchen", 1), RoomId("living room", 1)),), positions=None),
        Spec(style="sjh", counts=(("living room", 2), ("kitchen", 1)), connections=None, positions=None),
        Spec(
            style="sjh",
            counts=(("living room", 1), ("master room", 0), ("kitchen", 1)),
            connections=None,
            positions=None,
        ),
        Spec(style="sjh", counts=(("living room", 1), ("bedroom", 30)), connections=None, positions=None),
    ],
)
def test_nothing_is_filled_in_where_nothing_is_open_or_no_such_plan_is_drawn(spec: Spec) -> None:
    assert filled(spec, 0) is spec


def test_the_judge_fills_texts_and_leaves_what_it_does_not_understand() -> None:
    verifier = DOMAIN.verifier
    assert verifier is not None
    text, _ = verifier.formal("2 bedrooms, kitchen left of the living room")
    more = verifier.expand_prompt(text, 0)
    assert set(parse_spec(text).positions or ()) <= set(parse_spec(more).positions or ())
    assert verifier.expand_prompt("[Nonsense] the", 0) == "[Nonsense] the"
