"""The interactive prompt: every command, and no mistake ends it."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loraloom.cli.interactive import HELP, Interactive
from tests.generate.conftest import MakeAdapter, OpenSession

Talk = Callable[..., tuple[list[str], Interactive]]


@pytest.fixture
def talk(session_of: OpenSession, adapter: Path, tmp_path: Path) -> Talk:
    """`talk("a plan", ":seed 3", ...)`: what was said, without the help, and the conversation after it."""

    def run(*lines: str | BaseException) -> tuple[list[str], Interactive]:
        said: list[str] = []
        conversation = Interactive(session_of([(adapter, 1.0)]), tmp_path / "drawn", said.append)
        script = iter(lines)

        def read() -> str:
            line = next(script, None)
            if line is None:
                raise EOFError
            if isinstance(line, BaseException):
                raise line
            return line

        conversation.run(read)
        assert said[0] == HELP
        return said[1:], conversation

    return run


def pixels(folder: Path, number: int) -> np.ndarray:
    with Image.open(folder / f"{number:05d}.png") as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_a_prompt_is_drawn_and_an_empty_line_draws_it_again(talk: Talk) -> None:
    said, conversation = talk("a plan", "", ":next")
    assert [line.split("  ")[2].strip() for line in said] == ["seed 0", "seed 0", "seed 1"]
    first, again, other = (pixels(conversation.folder, number) for number in range(3))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("command", [":quit", ":q", ":exit"])
def test_quit_ends_at_once(command: str, talk: Talk) -> None:
    assert talk(command, "a plan")[0] == []


def test_settings_are_shown_as_they_are_changed(talk: Talk) -> None:
    said, conversation = talk(
        ":seed 5", ":steps 3", ":guidance 2.5", ":sampler euler_a", ":size 64 32", ":images 2", ":negative blur, dark",
        ":weight 0.25", ":show", "a plan", ":negative",
    )  # fmt: skip
    assert said[8] == ("  seed 5  steps 3  guidance 2.5  euler_a  64x32  images 2  weight 0.25  negative 'blur, dark'")
    requests = [request for request, _, _ in conversation.history]
    assert [request.seed for request in requests] == [5, 6]
    first = requests[0]
    assert (first.num_steps, first.guidance_scale, first.sampler, first.width, first.height, first.negative_prompt) == (
        3, 2.5, "euler_a", 64, 32, "blur, dark",
    )  # fmt: skip
    assert "negative" not in said[-1]


def test_one_number_is_a_square(talk: Talk) -> None:
    assert "64x64" in talk(":size 64")[0][0]
    assert "64x32" in talk(":size 64x32")[0][0]


def test_weight_zero_is_the_base_and_entries_are_drawn_as_they_were(talk: Talk, session_of: OpenSession) -> None:
    said, conversation = talk("a plan", ":weight 0", "", ":again 1", ":show", ":history")
    with_adapter, base, again = (pixels(conversation.folder, number) for number in range(3))
    assert (with_adapter != base).any()
    assert (with_adapter == again).all()
    assert "weight 0" in next(line for line in said if "steps" in line and "guidance" in line)
    assert said[-4].endswith("weight 0"), "drawing an old entry leaves the weight as it was"
    assert [line.split()[0] for line in said[-3:]] == ["1", "2", "3"]
    session = session_of()
    (bare,) = session.generate(session.requests(["a plan"]))
    assert (np.asarray(bare.image) == base).all()


def test_two_adapters_have_a_weight_each(
    session_of: OpenSession, adapter: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    other = make_adapter(tmp_path / "cat", seed=5)
    said: list[str] = []
    conversation = Interactive(session_of([(adapter, 1.0), (other, 1.0)]), tmp_path / "drawn", said.append)
    conversation.answer(":weight 0.5 2")
    assert said[-1].endswith("weight 1, 0.5")


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("", "there is no prompt yet"),
        (":again 1", "no such entry"),
        (":sed 3", "did you mean 'seed'"),
        (":", "unknown command"),
        (":seed x", "seed must be a number: got 'x'"),
        (":seed -1", "seed is out of range: got -1"),
        (":seed 1.5", "seed must be a number"),
        (":steps 0", "steps is out of range"),
        (":guidance 0.5", "guidance_scale is out of range"),
        (":guidance nan", "guidance_scale must be a number"),
        (":guidance inf", "guidance_scale must be a number"),
        (":images 0", "num_images is out of range"),
        (":sampler eulera", "did you mean 'euler_a'"),
        (":sampler", "unknown sampler"),
        (":size 33 32", "images of this size cannot be generated"),
        (":size 0", "images of this size cannot be generated"),
        (":size big", "a size is a width and a height in pixels"),
        (":size 8 8 8", "a size is a width and a height"),
        (":weight x", "an adapter weight is a number"),
        (":weight", "an adapter weight is a number"),
        (":weight nan", "an adapter weight: got nan, expected a number from -100.0 to 100.0"),
        (":weight 1e30", "an adapter weight: got 1e+30"),
        (":weight 1 2", "no such adapter: got 2, expected 1 to 1"),
        (":weight 1 0", "no such adapter"),
    ],
)
def test_a_mistake_is_explained_and_nothing_is_lost(line: str, answer: str, talk: Talk) -> None:
    said, conversation = talk(line, ":show")
    assert said[0].startswith("error: ")
    assert answer in said[0]
    assert said[1] == "  seed 0  steps 2  guidance 3  dpmpp_2m_karras  32x32  images 1  weight 1"
    assert conversation.history == []


def test_a_mistake_that_shows_while_drawing_is_explained(talk: Talk) -> None:
    said, _ = talk(":sampler lcm", ":steps 51", "a plan", ":steps 2", "")
    assert said[2].startswith("error: too many steps for lcm")
    assert "seed 0" in said[-1]


def test_control_c_breaks_off_and_the_conversation_goes_on(talk: Talk) -> None:
    said, conversation = talk("a plan", KeyboardInterrupt(), ":history")
    assert said[1] == "interrupted; :quit ends"
    assert "a plan" in said[2]
    assert len(conversation.history) == 1


def test_control_c_while_drawing_keeps_weights_and_conversation(
    session_of: OpenSession, adapter: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    steps = 0

    def progress(done: int, total: int) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:  # the second image, between its two steps
            raise KeyboardInterrupt

    conversation = Interactive(
        session_of([(adapter, 1.0)]), tmp_path / "drawn", said.append, lambda: nullcontext(lambda title: progress)
    )
    script = iter(["a plan", ":weight 0.5", ":again 1", ":show", "a house", ":quit"])
    conversation.run(lambda: next(script))
    assert said[3] == "interrupted; :quit ends"
    assert said[4].endswith("weight 0.5")
    assert [request.prompt for request, _, _ in conversation.history] == ["a plan", "a house"]


def test_the_list_of_commands_names_every_command(talk: Talk) -> None:
    for name in (
        "next",
        "seed",
        "steps",
        "guidance",
        "images",
        "sampler",
        "size",
        "negative",
        "weight",
        "show",
        "history",
        "again",
    ):
        assert f":{name}" in HELP
    assert talk(":help")[0] == [HELP]
    assert talk(":history")[0] == ["  no images yet"]


def test_what_is_not_read_is_said_once_for_a_prompt_drawn_again(talk: Talk) -> None:
    said, _ = talk("a BREAK b", "", ":next", "a BREAK b", "c AND d")
    assert [line.split(": ")[2] for line in said if "syntax of" in line] == ["'BREAK' (1)", "'AND' (1)"]
