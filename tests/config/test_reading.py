"""Settings from files, flags and overrides: what is read, what goes before what, and what every mistake is told."""

from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from loraloom.config.base import Settings, setting
from loraloom.config.generate import GenerateConfig
from loraloom.config.prepare import PrepareConfig
from loraloom.config.reading import commented_yaml, flatten, read_settings, to_yaml
from loraloom.config.run import RunConfig, TrainConfig
from loraloom.config.yaml_text import dump
from loraloom.utils.errors import UserError

KINDS: list[type[Settings]] = [RunConfig, PrepareConfig, GenerateConfig]
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    file = folder / name
    file.write_bytes(text.encode("utf-8"))  # line ends as they are
    return file


def mistake(**arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        read_settings(RunConfig, **arguments)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_template_reads_back_to_the_defaults(kind: type[Settings], tmp_path: Path) -> None:
    assert read_settings(kind, write(tmp_path, commented_yaml(kind))) == kind()


@pytest.mark.parametrize("kind", KINDS)
def test_the_template_holds_every_setting_with_its_help(kind: type[Settings]) -> None:
    text = commented_yaml(kind)
    for key in flatten(kind()):
        assert f"{key.rpartition('.')[2]}:" in text
    assert "# Rank of every LoRA update. (an integer >= 1)\n  rank: 16\n" in commented_yaml(RunConfig)


def test_a_needed_setting_stands_in_the_template_as_a_comment() -> None:
    class Needy(Settings):
        """Needs a name."""

        name: str = setting(..., "what to call it")

    assert "# name: required" in commented_yaml(Needy)
    with pytest.raises(UserError, match=r"^name: required, expected text"):
        read_settings(Needy)


@given(
    prompts=st.lists(TEXT, max_size=3),
    text=TEXT,
    revision=st.none() | TEXT,
    rate=st.floats(min_value=1e-12, max_value=1e3),
    rank=st.integers(1, 10**6),
    flag=st.booleans(),
)
def test_settings_survive_text_and_dotted_keys(
    tmp_path_factory: pytest.TempPathFactory,
    prompts: list[str],
    text: str,
    revision: str | None,
    rate: float,
    rank: int,
    flag: bool,
) -> None:
    values = {
        "samples.prompts": tuple(prompts),
        "data.dataset": text,
        "model.revision": revision,
        "optim.learning_rate": rate,
        "lora.rank": rank,
        "data.cache": flag,
    }
    settings = read_settings(RunConfig, values=values)
    assert {key: flatten(settings)[key] for key in values} == values
    assert read_settings(RunConfig, values=flatten(settings)) == settings
    file = write(tmp_path_factory.getbasetemp(), to_yaml(settings), "round.yaml")
    assert read_settings(RunConfig, file) == settings


@pytest.mark.parametrize(
    "text", ["a\x85b", "a\u2028b", "a\n\n b\r\n", "1e-4", "no", "null", "010", " a ", "#fff", "\ufeff"]
)
def test_texts_that_yaml_would_read_as_something_else_come_back(text: str, tmp_path: Path) -> None:
    """U+0085 is a line break to YAML: a revision that held one came back with a blank in its place."""
    settings = read_settings(RunConfig, values={"model.revision": text})
    assert read_settings(RunConfig, write(tmp_path, to_yaml(settings))) == settings


@given(text=TEXT | st.sampled_from(["no", "on", "1_000", "=", "<<", "1:30", "2020-01-01"]), rate=st.floats(0, 1e30))
def test_settings_mean_the_same_to_programs_that_read_yaml_1_1(text: str, rate: float) -> None:
    """`mixed_precision: no` would be false to them, and `1e-08` a text."""
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)
    assert yaml.load(dump({"text": text, "rate": rate})) == {"text": text, "rate": rate}


def test_overrides_go_before_flags_before_the_file_before_defaults(tmp_path: Path) -> None:
    file = write(tmp_path, "lora: {rank: 2, alpha: 2, dropout: 0.2}\n")
    settings = read_settings(RunConfig, file, ["lora.rank=4"], {"lora.rank": "3", "lora.alpha": "3"})
    assert (settings.lora.rank, settings.lora.alpha, settings.lora.dropout) == (4, 3.0, 0.2)
    assert settings.lora.target == RunConfig().lora.target


def test_a_wrong_value_that_is_overridden_does_no_harm(tmp_path: Path) -> None:
    file = write(tmp_path, "lora: {rank: many}\n")
    assert read_settings(RunConfig, file, ["lora.rank=4"]).lora.rank == 4


def test_toml_reads_like_yaml(tmp_path: Path) -> None:
    file = write(tmp_path, '[optim]\nlearning_rate = 1e-3\n[train]\nmixed_precision = "no"\n', "run.toml")
    settings = read_settings(RunConfig, file)
    assert (settings.optim.learning_rate, settings.train.mixed_precision) == (1e-3, "no")


def test_yaml_means_what_it_says(tmp_path: Path) -> None:
    """PyYAML alone reads `1e-4` as a text and `no` as False; both stand in every recipe of this field."""
    file = write(tmp_path, "optim:\n  learning_rate: 1e-4\ntrain:\n  mixed_precision: no\n  seed: 010\ndata:\n")
    settings = read_settings(RunConfig, file)
    assert (settings.optim.learning_rate, settings.train.mixed_precision, settings.train.seed) == (1e-4, "no", 10)


def test_a_yaml_version_line_does_not_change_what_values_mean(tmp_path: Path) -> None:
    file = write(tmp_path, "%YAML 1.1\n---\ntrain: {mixed_precision: no, seed: 010}\n")
    assert (read_settings(RunConfig, file).train.mixed_precision, read_settings(RunConfig, file).train.seed) == (
        "no",
        10,
    )


def test_an_anchor_that_is_used_again_is_read_without_a_word(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    file = write(tmp_path, "lora: {rank: &n 3}\ntrain: {seed: &n 4, max_steps: *n}\n")
    assert read_settings(RunConfig, file).train.max_steps == 4
    assert not recwarn.list


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(b"\xef\xbb\xbflora:\r\n  rank: 3\r\n")
    assert read_settings(RunConfig, file).lora.rank == 3


def test_an_override_of_a_text_is_taken_as_typed() -> None:
    overrides = ["model.revision=1234", "lora.target=^(to_q|to_k): x$", "model.variant=null", "data.dataset='null'"]
    settings = read_settings(RunConfig, overrides=overrides)
    assert (settings.model.revision, settings.lora.target) == ("1234", "^(to_q|to_k): x$")
    assert (settings.model.variant, settings.data.dataset) == (None, "null")


def test_an_override_may_be_a_list_or_a_group() -> None:
    settings = read_settings(RunConfig, overrides=["samples.prompts=[a room, '2']", "lora={rank: 3}", "lora.alpha=6"])
    assert settings.samples.prompts == ("a room", "2")
    assert (settings.lora.rank, settings.lora.alpha) == (3, 6.0)


def test_a_group_default_that_differs_from_its_class_is_kept() -> None:
    class Short(Settings):
        """A short run."""

        train: TrainConfig = TrainConfig(max_steps=5)

    assert read_settings(Short, overrides=["train.seed=1"]).train == TrainConfig(max_steps=5, seed=1)
    assert "max_steps: 5" in commented_yaml(Short)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("lora:\n  rankk: 3\n", "run.yaml: lora.rankk: unknown (did you mean 'rank'?), got 3 (line 2)"),
        ("loraa: {rank: 3}\n", "run.yaml: loraa: unknown group (did you mean 'lora'?) (line 1)"),
        ("model: {rank: 3}\n", "run.yaml: model.rank: unknown (rank belongs to lora.rank), got 3 (line 1)"),
        ("rank: 3\n", "run.yaml: rank: unknown (rank belongs to lora.rank), got 3 (line 1)"),
        ("seed: 3\n", "run.yaml: seed: unknown (seed belongs to train.seed or samples.seed), got 3 (line 1)"),
        ("lora: 3\n", "run.yaml: lora: got 3, expected a group of settings: target, rank, "),
        ("lora: {rank: many}\n", "run.yaml: lora.rank: got 'many', expected an integer >= 1 (line 1)"),
        ("lora: {rank: true}\n", "run.yaml: lora.rank: got true, expected an integer >= 1 (line 1)"),
        ("lora: {rank: 0}\n", "run.yaml: lora.rank: got 0, expected an integer >= 1 (line 1)"),
        ("lora: {rank: }\n", "run.yaml: lora.rank: got null, expected an integer >= 1 (line 1)"),
        ("model: {revision: 12}\n", "model.revision: got 12, expected text or null; write it in quotes (line 1)"),
        ("optim: {scheduler: cos}\n", "optim.scheduler: got 'cos', expected one of constant, cosine, linear (line 1)"),
        ("optim: {betas: [0.9]}\n", "run.yaml: optim.betas: got [0.9], expected a list of 2 numbers (line 1)"),
        ("optim: {learning_rate: .inf}\n", "run.yaml: optim.learning_rate: got inf, expected a finite number (line 1)"),
        ("samples: {prompts: one}\n", "run.yaml: samples.prompts: got 'one', expected a list of texts (line 1)"),
        ("objective: {logit_std: 0}\n", "run.yaml: objective.logit_std: got 0, expected a number > 0 (line 1)"),
        (
            "objective: {logit_mean: -1}\n",
            "run.yaml: objective.logit_mean and logit_std require objective.timestep_sampling logit_normal, but ",
        ),
        ("objective: {balance_noise: true, snr_gamma: 5}\n", "run.yaml: objective.balance_noise and snr_gamma both "),
        (
            "objective: {class_weights: [wall]}\n",
            "run.yaml: objective.class_weights: got ['wall'], 'wall' is not NAME=",
        ),
        ("objective: {class_weights: [a=2, a=3]}\n", "run.yaml: objective.class_weights: got ['a=2', 'a=3'], 'a' has "),
        (
            "{train: {method: full}, lora: {rank: 8}}\n",
            "run.yaml: lora.rank belongs to an adapter, but train.method is full",
        ),
        ("optim: {warmup_steps: 900}\n", "run.yaml: optim.warmup_steps is 900 but train.max_steps is 800: "),
    ],
)
def test_a_mistake_in_a_file_names_setting_value_and_limit(text: str, line: str, tmp_path: Path) -> None:
    assert line in mistake(file=write(tmp_path, text))


def test_every_mistake_is_told_at_once_one_a_line(tmp_path: Path) -> None:
    file = write(tmp_path, "lora: {rankk: 3, rank: many}\nloraa: {}\n")
    told = mistake(file=file, overrides=["train.max_steps=0"]).splitlines()
    assert told[0] == "4 settings are invalid"
    assert len(told) == 6
    assert "  train.max_steps: got 0, expected an integer >= 1" in told
    assert told[-1] == "  `loraloom config train` prints every setting with its limits"


def test_a_mistake_of_a_flag_does_not_blame_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "lora: {rank: 3}\n")
    assert mistake(file=file, values={"lora.rank": "many"}).startswith(
        "lora.rank: got 'many', expected an integer >= 1"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "lora: {rank: 1}\nlora: {rank: 2}\n",
            "run.yaml, line 2: not valid YAML: duplicate key 'lora', first on line 1",
        ),
        ("lora:\n\trank: 1\n", "run.yaml, line 2: not valid YAML"),
        ("lora: [1\n", "not valid YAML"),
        ("just words\n", "run.yaml, line 1: not settings: got 'just words', expected groups of `key: value`"),
        ("3: x\n", "run.yaml, line 1: not valid YAML: a key must be a word, got 3"),
        ("lora: !!python/object/apply:os.system [ls]\n", "run.yaml, line 1: not valid YAML"),
        ("\nlora: {rank:}\n", "run.yaml, line 2: not valid YAML: no blank between 'rank:' and its value"),
        ("lora: &a {rank: *a}\n", "run.yaml, line 1: not valid YAML"),
        ("lora: \x07\n", "run.yaml, line 1: a character that YAML does not allow"),
        ("[" * 5000, "run.yaml, line 1: not valid YAML: nested deeper than 64 levels"),
    ],
)
def test_a_file_that_is_no_settings_file_is_told_with_its_line(text: str, told: str, tmp_path: Path) -> None:
    assert told in mistake(file=write(tmp_path, text))


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert mistake(file=tmp_path / "gone.yaml").startswith("the settings file does not exist: got ")
    assert mistake(file=tmp_path).startswith("the settings file is a folder: got ")
    assert mistake(file=write(tmp_path, "{}", "run.json")).startswith("settings files are YAML or TOML: got 'run.json'")
    assert "not valid TOML" in mistake(file=write(tmp_path, "a = \n", "run.toml"))
    file = tmp_path / "utf16.yaml"
    file.write_bytes("lora: {}".encode("utf-16"))
    assert mistake(file=file).startswith("utf16.yaml is not UTF-8: got 'byte 0 of")


@pytest.mark.parametrize("override", ["lora.rank", "=3", ""])
def test_an_override_without_key_or_value_is_told(override: str) -> None:
    assert mistake(overrides=[override]).endswith("expected group.key=value")


def test_thousands_of_unknown_keys_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    """Looking for the nearest name of each of 60,000 took 14 s, and the error was a megabyte long."""
    text = mistake(file=write(tmp_path, "".join(f"key{number}: 1\n" for number in range(4000))))
    assert text.startswith("4,000 settings are invalid\n  run.yaml: key0: unknown")
    assert "and 3,980 more" in text
    assert len(text.splitlines()) < 25


ENDLESS = [
    ("a" + ".a" * 200_000 + " = 1", "run.toml", "a key of more than 16 parts"),
    ('"é"' + '."é"' * 200_000 + " = 1", "run.toml", "a key of more than 16 parts"),
    ("seed = " + "1" * 5000, "run.toml", "a number of more than 400 digits"),
    ("seed = 0x" + "f" * 5000, "run.toml", "a number of more than 400 digits"),
    ("".join(f"k{n} = 1\n" for n in range(30_000)), "run.toml", "more than 20,000 entries"),
    ("".join(f"k{n}: 1\n" for n in range(10_000)), "run.yaml", "more than 10,000 entries"),
    ("train: {seed: " + "1" * 5000 + "}", "run.yaml", "a number of more than 400 digits"),
    ("train: {seed: " + "1" * 30 + "}", "run.yaml", "expected at most 9,223,372,036,854,775,807"),
    ("train: {seed: !!timestamp 2020-01-01}", "run.yaml", "line 1: not valid YAML"),
    ("train: {seed: !!timestamp x}", "run.yaml", "line 1: not valid YAML"),
    ("train: {compile: !!bool perhaps}", "run.yaml", "not valid YAML"),
    ("train: !!set {seed}", "run.yaml", "line 1: not valid YAML"),
    ('model: {source: "a\\ud800"}', "run.yaml", "expected a text that UTF-8 can hold"),
    ('model: {source: "a\\0"}', "run.yaml", "expected a text without NUL characters"),
    (
        "a: &a [1, 1]\n" + "".join(f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in pairwise("abcdefghijk")),
        "run.yaml",
        "aliases of aliases without end",
    ),
    ("a: !" + "b" * 1_000_000 + " c", "run.yaml", "a tag of more than 400 characters"),
    ("- " * 500_000, "run.yaml", "nested deeper than 64 levels"),
    ("%A b\n" * 1000, "run.yaml", "too many lines begin with %"),
    ("x" * (1 << 21), "run.yaml", "too large"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "name", "told"), ENDLESS, ids=range(len(ENDLESS)))
def test_a_file_that_would_take_minutes_or_gigabytes_is_refused_in_a_line(
    text: str, name: str, told: str, tmp_path: Path
) -> None:
    message = mistake(file=write(tmp_path, text, name))
    assert told in message
    assert len(message) < 400


@pytest.mark.parametrize(
    "text", ["# " + "a.b " * 40, 'model = {source = "' + "a." * 60 + '"}', "x = [" + "0.1, " * 99 + "]"]
)
def test_dots_in_texts_comments_and_numbers_are_no_deep_keys(text: str, tmp_path: Path) -> None:
    with suppress(UserError):
        read_settings(RunConfig, write(tmp_path, text, "run.toml"))
    assert "parts" not in (mistake(file=write(tmp_path, text + "\nz = 1", "run.toml")))
