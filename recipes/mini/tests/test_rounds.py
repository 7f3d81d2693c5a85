"""Settings of a build of `mini` by name: rounds that continue, and the benchmark's rehearsal."""

import json
from pathlib import Path

from benchmarks.mini_build import FITS, IMAGES, rehearsal
from recipes.mini.build import _Build  # pyright: ignore[reportPrivateUsage]
from recipes.mini.recipe import Recipe


def build_of(folder: Path, recipe: Recipe) -> _Build:
    return _Build(folder, recipe, 0.0, lambda line: None, lambda title: lambda done, total: None)


def test_a_round_with_the_same_settings_is_continued(tmp_path: Path) -> None:
    """A round read the setting `layings` of a recipe that has `orientations`: every build ended in a traceback."""
    recipe = Recipe(images=10)
    first = build_of(tmp_path, recipe)._round()  # pyright: ignore[reportPrivateUsage]
    assert first.name == "round_01"
    assert build_of(tmp_path, recipe)._round() == first  # pyright: ignore[reportPrivateUsage]
    recorded = json.loads((first / "round.json").read_text(encoding="utf-8"))
    assert recorded == {name: getattr(recipe, name) for name in recorded}


def test_a_rehearsal_shortens_every_stage_of_the_recipe() -> None:
    """It replaced fields that the recipe had under earlier names, and ended in a TypeError."""
    short = rehearsal(Recipe(), 60)
    assert {getattr(short, name) for name in FITS.values()} == {60}
    assert max(short.images, short.autoencoder_images, short.reading_texts, short.contrast_images) == IMAGES
