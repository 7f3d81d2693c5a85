"""Texts of one repeated piece, as hostile or broken files have them, are read in time that grows with their length alone."""

import time
from collections.abc import Callable

import pytest

from loraloom import plugins
from loraloom.generate.foreign_recipes import foreign_recipe
from loraloom.lora.blend import split_tags
from loraloom.prompts.triggers import has_trigger, with_trigger_first, without_trigger
from loraloom.prompts.weighting import parse
from loraloom.utils.errors import UserError

LENGTH = 150_000
PIECES = (
    " ",
    "\n",
    "a",
    "a ",
    "(",
    ")",
    "[",
    "{a|",
    "<lora:",
    "<lora:a:",
    ".",
    ", ",
    "sks ",
    "BREAK ",
    "a:",
    "1",
    "\t,",
)
READERS: dict[str, Callable[[str], object]] = {
    "weights": parse,
    "LoRA tags": split_tags,
    "trigger": lambda text: (has_trigger(text, "sks"), without_trigger(text, "sks"), with_trigger_first(text, "sks")),
    "A1111": lambda text: foreign_recipe({"parameters": f"{text}\nSteps: 1, {text}"}, "a.png"),
    **{f"sections of {name}": plugins.load("domains", name).sections for name in plugins.names("domains")},
}


@pytest.mark.parametrize("reader", READERS)
def test_a_repeated_piece_takes_no_time_that_grows_with_the_square(reader: str) -> None:
    """Blanks were tried from every one of them on: a megabyte of them took an hour."""
    for piece in PIECES:
        text = (piece * LENGTH)[:LENGTH]
        began = time.process_time()
        try:
            READERS[reader](text)
        except UserError:
            continue
        finally:
            assert time.process_time() - began < 5, f"{piece!r}"


def test_a_trigger_goes_with_the_comma_and_the_blanks_beside_it() -> None:
    for text in ("a cat  ,  sks", "sks , a cat", "a cat, sks", "a cat,sks", " \n, sks  a cat"):
        assert without_trigger(text, "sks") == "a cat", text
