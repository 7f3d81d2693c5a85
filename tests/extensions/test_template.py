"""Captions from a template."""

from pathlib import Path

import pytest
from PIL import Image

from loraloom.extensions.captioners.template import CAPTIONER
from loraloom.protocols.data import SourceItem
from loraloom.utils.errors import UserError

ITEM = SourceItem(id="toys/red_car/my-car_01", image=Path("toys/red_car/my-car_01.jpg"), caption=None)


def caption(template: str, trigger: str = "sks") -> str:
    return CAPTIONER.caption(Image.new("RGB", (1, 1)), ITEM, {"caption_template": template}, trigger)


def test_placeholders_are_filled_in_with_words() -> None:
    assert caption("a {trigger} {folder}, {stem}") == "a sks red car, my car 01"
    assert caption("{id}") == "toys/red_car/my-car_01"
    assert caption("no placeholder {{at all}}") == "no placeholder {at all}"


@pytest.mark.parametrize(
    "template", ["{foldr}", "{folder.__class__}", "{folder[0]}", "{folder!r}", "{folder:>99999999}", "{}"]
)
def test_an_unknown_placeholder_is_refused_and_never_evaluated(template: str) -> None:
    with pytest.raises(UserError, match="unknown placeholder"):
        caption(template)


def test_a_lone_brace_and_a_missing_trigger_are_told() -> None:
    with pytest.raises(UserError, match="brace"):
        caption("a {folder")
    with pytest.raises(UserError, match="there is no trigger word"):
        caption("a {trigger}", trigger="")
    assert caption("{trigger}", trigger="{folder}") == "{folder}"
