"""Which settings differ, and which of them a run may go on with."""

from pathlib import Path

import pytest

from loraloom.config.comparing import compare, difference_table, read_run, refuse_unless_resumable
from loraloom.config.reading import read_settings
from loraloom.config.run import RunConfig
from loraloom.utils.errors import UserError


def run(*overrides: str) -> RunConfig:
    return read_settings(RunConfig, overrides=overrides)


def test_the_same_settings_do_not_differ() -> None:
    assert compare(run(), run()) == []
    assert difference_table([], ("a", "b")) == "no setting differs"


def test_differences_come_in_reading_order_and_say_whether_a_run_may_go_on() -> None:
    found = compare(run(), run("train.log_every=5", "lora.rank=4"))
    assert [(one.key, one.old, one.new, one.resumable) for one in found] == [
        ("lora.rank", 16, 4, False),
        ("train.log_every", 10, 5, True),
    ]


def test_a_resumable_setting_may_change() -> None:
    refuse_unless_resumable(run(), run("train.log_every=5", "data.cache=false", "checkpoints.every=7"))


def test_what_was_learned_from_may_not_change() -> None:
    with pytest.raises(UserError) as caught:
        refuse_unless_resumable(run(), run("lora.rank=4", "model.revision=main", "train.log_every=5"))
    assert str(caught.value).splitlines() == [
        "the run cannot be resumed: 2 settings changed",
        "  model.revision: was null, now 'main'",
        "  lora.rank: was 16, now 4",
        "  restore the old values, or start a new run in another folder (--out)",
    ]


def test_a_run_may_be_made_longer_only_when_its_learning_rate_does_not_depend_on_its_length() -> None:
    refuse_unless_resumable(run(), run("train.max_steps=900"))
    for old, new in [("cosine", "cosine"), ("constant", "linear")]:
        with pytest.raises(UserError, match=r"train\.max_steps: was 800, now 900"):
            refuse_unless_resumable(run(f"optim.scheduler={old}"), run(f"optim.scheduler={new}", "train.max_steps=900"))


def test_a_run_is_read_from_its_folder_or_its_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("lora: {rank: 3}\n", encoding="utf-8")
    assert read_run(tmp_path) == read_run(tmp_path / "run.yaml") == run("lora.rank=3")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"there is no run\.yaml"):
        read_run(tmp_path / "empty")


def test_the_table_is_aligned() -> None:
    table = difference_table(compare(run(), run("lora.rank=4", "train.log_every=5")), ("first", "second"))
    assert table.splitlines() == [
        "setting          first  second  resumable",
        "lora.rank        16     4       no",
        "train.log_every  10     5       yes",
    ]
