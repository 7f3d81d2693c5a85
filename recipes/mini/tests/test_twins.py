"""Images without their walls or openings, and what an encoder learns from them."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from loraloom.extensions.domains.floorplan.vocabulary import STYLES
from loraloom.models.loading import open_model
from loraloom.protocols.model import ModelSource
from recipes.mini.autoencoder import amplify_thin_structures
from recipes.mini.canvas import Canvas, Crops, signed
from recipes.mini.data import Part
from recipes.mini.fitting import Job, Way
from recipes.mini.twins import Twins, counts_of, thin_rows, twins_of, without_walls

GROUND, LIVING, BEDROOM, WALL, DOOR = range(5)
CLASSES = [0, 1, 5, 9, 11]  # of the styles' colours


def marks() -> Tensor:
    """(1, 256, 256) two bedrooms side by side above a living room, a door from the left one to it."""
    places = torch.full((1, 256, 256), GROUND)
    places[0, 60:180, 60:200] = WALL
    places[0, 63:117, 63:128] = BEDROOM
    places[0, 63:117, 131:197] = BEDROOM
    places[0, 120:177, 63:197] = LIVING
    places[0, 117:120, 90:103] = DOOR
    return places


def crops_of(places_fhw: Tensor, style: str) -> Crops:
    """Those marks in a style's colours."""
    palette = np.zeros((16, 3), np.uint8)
    palette[:5] = STYLES[style].palette[CLASSES]
    palettes_fk3 = signed(torch.from_numpy(palette))[None].expand(len(places_fhw), 16, 3)
    pixels_bchw = palettes_fk3[0][places_fhw].permute(0, 3, 1, 2)
    return Crops(pixels_bchw, palettes_fk3, (torch.arange(16) < 5)[None].expand(len(places_fhw), 16), places_fhw)


def test_what_is_nowhere_five_pixels_wide_is_thin() -> None:
    assert thin_rows(marks())[0, :5].tolist() == [False, False, False, True, True]
    assert not thin_rows(marks())[0, 5:].any()
    assert counts_of(marks()).sum() == 256 * 256


def test_only_a_wall_between_rooms_of_one_colour_goes_and_takes_their_colour() -> None:
    places = marks()
    rooms = torch.zeros(1, 16, dtype=torch.bool)
    rooms[0, [LIVING, BEDROOM]] = True
    filled = without_walls(places, torch.tensor([WALL]), rooms)
    expected = places.clone()
    expected[0, 63:117, 128:131] = BEDROOM
    assert torch.equal(filled, expected)
    assert torch.equal(places, marks())  # what came in stays
    assert torch.equal(without_walls(places.mT, torch.tensor([WALL]), rooms), expected.mT)


def test_twins_differ_where_they_say_and_scenes_have_none() -> None:
    crops = crops_of(marks().expand(40, 256, 256), "sjh")
    scene = torch.full((1, 3, 256, 256), 0.5)
    crops = Crops(torch.cat([crops.pixels_bchw, scene]), crops.palettes_fk3, crops.used_fk, crops.places_fhw)
    twins = twins_of(crops, np.random.default_rng(0))
    assert torch.equal(twins.crops.pixels_bchw[40:], scene) and len(twins.pixels_fchw) == 40
    changed = (twins.crops.pixels_bchw[:40] != twins.pixels_fchw).any(1)
    cells = torch.nn.functional.avg_pool2d(changed.float(), 8) * 64
    assert ((cells >= 8) >= twins.differs_fhw).all()
    assert {round(float(wanted), 1) for wanted in twins.wanted_f} == {3.7, 2.4}
    for wanted in (3.7, 2.4):
        assert twins.differs_fhw[torch.isclose(twins.wanted_f, torch.tensor(wanted))].any()
    for pixels, palette, places in zip(
        twins.crops.pixels_bchw, twins.crops.palettes_fk3, twins.crops.places_fhw, strict=False
    ):
        assert torch.equal(pixels.permute(1, 2, 0), palette[places])
    again = twins_of(crops, np.random.default_rng(0))
    assert torch.equal(twins.pixels_fchw, again.pixels_fchw)


def test_only_what_is_too_near_where_it_differs_costs() -> None:
    differs = torch.zeros(1, 2, 2, dtype=torch.bool)
    differs[0, 0, 0] = True
    twins = Twins(crops_of(marks(), "sjh"), torch.empty(0), differs, torch.tensor([3.0]))
    here = torch.zeros(1, 4, 2, 2)
    assert float(twins.loss(here, here)) == pytest.approx(9, rel=1e-2)
    there = here.clone()
    there[0, :, 0, 0] = 2.0  # 4 away
    assert float(twins.loss(here, there)) == 0
    there[0, :, 0, 0] = 1.0
    assert float(twins.loss(here, there)) == pytest.approx(1, rel=1e-2)


def loudness(vae: Any, style: str) -> float:
    """How far the latents move where the wall between the bedrooms goes, L2 over channels."""
    places = marks()
    twin = places.clone()
    twin[0, 63:117, 128:131] = BEDROOM
    with torch.inference_mode():
        both = [vae.encode(crops_of(each, style).pixels_bchw).latent_dist.mean for each in (places, twin)]
    return float((both[0] - both[1])[0, :, 9:14, 16].norm(dim=0).mean())


@pytest.mark.long
def test_a_faint_wall_gets_louder_and_known_latents_stay(tmp_path: Path) -> None:
    vae: Any = open_model(ModelSource(location="builtin:mini")).modules.place("vae", torch.device("cpu"), torch.float32)
    grey = np.linspace(100, 160, 16, dtype=np.uint8)[:, None].repeat(3, 1)
    faint = Part([""], marks().byte().numpy(), grey[None])
    plain = np.zeros((1, 16, 3), np.uint8)
    plain[0, :5] = STYLES["plain"].palette[CLASSES]
    known = Canvas([Part([""], marks().byte().numpy(), plain)], "cpu", own_colours=1.0)
    before = copy.deepcopy(vae)
    told: list[str] = []
    job = Job(tmp_path / "louder.safetensors", told.append)
    assert amplify_thin_structures(vae, Canvas([faint], "cpu", own_colours=1.0), known, 30, Way(4), job)

    def distance(one: Any) -> float:
        places, twin = marks(), marks()
        twin[0, 63:117, 128:131] = BEDROOM
        palette = signed(torch.from_numpy(grey))
        with torch.inference_mode():
            a, b = (one.encode(palette[each].permute(0, 3, 1, 2)).latent_dist.mean for each in (places, twin))
        return float((a - b)[0, :, 9:14, 16].norm(dim=0).mean())

    assert distance(vae) > 1.2 * distance(before)
    moved = loudness(vae, "plain") / loudness(before, "plain")
    assert 0.8 < moved < 1.25


def test_the_shipped_encoder_says_a_wall_between_dark_rooms_almost_as_loudly_as_one_between_light_ones() -> None:
    vae = open_model(ModelSource(location="builtin:mini")).modules.get("vae")
    assert loudness(vae, "sjh") > 0.6 * loudness(vae, "plain")
