"""Broken and malicious files for the verbs of plans: each is read, or refused with a reason; never a traceback or a hang."""

import json
import os
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from loraloom.extensions.domains.floorplan.cli.inputs import open_plan, text_of
from loraloom.extensions.domains.floorplan.export import json_file
from loraloom.extensions.domains.floorplan.synthesis import synthesise
from loraloom.extensions.domains.floorplan.vision.palette_file import load_palette
from loraloom.utils.errors import UserError

VALUES: list[Any] = [
    None, True, -1, 0, 10**9, 10**30, 1e308, -0.5, "", "256", "\x00", "a" * 5000, "../../etc/passwd", [], {}, [[]], [None] * 50,
    {"polygon": None}, [[0, 0], [1e9, 1e9]], [[0]], [[0, 0, 0]], "living room", [10**9, 10**9], {"a": {"b": []}},
]  # fmt: skip
SAMPLE = range(0, 2000, 50)


@cache
def record() -> str:
    return json.dumps(json_file.record(synthesise(1).plan))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inside for place in places(each, (*path, key)))]


def mutated(seed: int) -> str:
    """The record of a plan in which one to three values are replaced or missing, or the text is cut or doubled somewhere."""
    rng = random.Random(seed)
    value = json.loads(record())
    for _ in range(rng.randint(1, 3)):
        *way, last = rng.choice(places(value)[1:])
        holder = value
        for key in way:
            holder = holder[key]
        if rng.random() < 0.2:
            del holder[last]
        else:
            holder[last] = rng.choice(VALUES)
    text = json.dumps(value)
    if rng.random() < 0.1:
        start, end = sorted(rng.randrange(len(text)) for _ in range(2))
        text = (
            text[:start]
            + rng.choice(["", text[start:end] * 2, "[" * 1000, '{"a":', "\\ud800", "9" * 5000])
            + text[end:]
        )
    return text


def check_plan_file(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    try:
        opened = open_plan(path)
    except UserError as error:
        assert len(str(error)) < 2000
    else:
        assert opened.plan.labels.shape == (256, 256)


@pytest.mark.parametrize("seed", SAMPLE)
def test_an_edited_plan_file_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    check_plan_file(tmp_path / "x.json", mutated(seed))


@pytest.mark.hostile
@pytest.mark.slow
def test_two_thousand_edited_plan_files_are_read_or_refused(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if "hostile" not in request.config.getoption("markexpr"):
        pytest.skip("a sample runs above; all of them with -m hostile")
    for seed in range(2000):
        check_plan_file(tmp_path / "x.json", mutated(seed))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "9" * 100_000,
        '"\\ud800"',
        "NaN",
        "[1e999]",
        "",
        "\x00",
        '{"size": 1' + "0" * 500 + "}",
    ],
)
def test_json_that_no_parser_should_see_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    for read in (open_plan, load_palette):
        with pytest.raises(UserError, match=r"x\.json"):
            read(tmp_path / "x.json")


def test_sizes_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    for size in (10**9, [10**9, 10**9], [256, 10**30], -1, 0, 2.5, "256", None, [256], True):
        with pytest.raises(UserError, match="size"):
            json_file.parse(json.loads(record()) | {"size": size})


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    for name, read in (("x.json", open_plan), ("x.png", open_plan), ("p.json", load_palette)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 30)  # sparse
        with pytest.raises(UserError, match="too large"):
            read(tmp_path / name)
    with (tmp_path / "x.txt").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(UserError, match="too large"):
        text_of(str(tmp_path / "x.txt"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_fifo_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    for name in ("x.json", "x.png", "x.txt"):
        os.mkfifo(tmp_path / name)
    for read in (open_plan, load_palette):
        with pytest.raises(UserError, match="FIFO"):
            read(tmp_path / "x.json")
    with pytest.raises(UserError, match="FIFO"):
        open_plan(tmp_path / "x.png")
    with pytest.raises(UserError, match="FIFO"):
        text_of(str(tmp_path / "x.txt"))


def test_a_link_to_nothing_and_a_loop_of_links_are_refused(tmp_path: Path) -> None:
    try:
        (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
        (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    except OSError:
        pytest.skip("no links here")
    for name in ("gone.png", "loop.json"):
        with pytest.raises(UserError, match=name):
            open_plan(tmp_path / name)
