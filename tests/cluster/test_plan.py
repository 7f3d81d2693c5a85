"""Plans: every rank once, one port and name an attempt, the commands that `--dry-run` prints."""

import io
import shlex
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from loraloom.cluster.hosts import Host
from loraloom.cluster.plan import Member, RunPlan, accelerate_yaml, as_text, plan_attempt, run_name
from loraloom.config.yaml_text import parse

RUN = RunPlan(name="r", settings="a: 1\n", arguments=("--cpu",), port=29500, lease_s=60, grace_s=30, env={})


def member(name: str, processes: int, system: str = "linux") -> Member:
    return Member(
        host=Host(address=f"10.0.0.{len(name)}", name=name, system=system),
        processes=processes,
        address=f"10.0.0.{len(name)}",
        python="venv/bin/python",
        release="release-1",
        dataset="data/d",
        run_folder="runs/r",
    )


@given(st.lists(st.integers(1, 8), min_size=1, max_size=16), st.integers(1, 10_000))
def test_every_rank_is_started_exactly_once_in_the_order_of_the_nodes(counts: list[int], number: int) -> None:
    attempt = plan_attempt(RUN, [member("n" * (i + 1), count) for i, count in enumerate(counts)], number)
    assert [rank for node in attempt.nodes for rank in node.ranks] == list(range(sum(counts)))
    assert attempt.world_size == sum(counts)
    assert 29500 <= attempt.master_port < 29505


@given(st.integers(1, 1000))
def test_two_attempts_in_a_row_share_neither_name_nor_port(number: int) -> None:
    one, two = (plan_attempt(RUN, [member("a", 1), member("bb", 1)], n) for n in (number, number + 1))
    assert one.id != two.id
    assert one.master_port != two.master_port


def test_a_dry_run_shows_each_ranks_variables_and_command_as_they_are_typed() -> None:
    text = as_text(plan_attempt(RUN, [member("a", 1), member("bb", 2, "windows")], 1))
    assert "attempt r-1: 3 processes on 2 nodes" in text
    line = next(line for line in text.splitlines() if line.startswith("[bb 2]"))
    words = shlex.split(line.partition("]")[2])
    assert {"RANK=2", "LOCAL_RANK=1", "WORLD_SIZE=3", "LOCAL_WORLD_SIZE=2", "MASTER_ADDR=10.0.0.1"} <= set(words)
    assert "USE_LIBUV=0" in words
    assert text.count("LORALOOM_BACKEND=gloo") == 3, "NCCL is not there on Windows, and all ranks need one backend"
    assert "gloo" not in as_text(plan_attempt(RUN, [member("a", 1), member("bb", 2)], 1))
    assert words[-10:] == [
        *("-m", "loraloom", "train", "--config", "{attempt}/run.yaml"),
        *("--dataset", "data/d", "--out", "runs/r", "--cpu"),
    ]
    assert "USE_LIBUV" not in next(line for line in text.splitlines() if line.startswith("[a 0]"))


def test_the_file_for_accelerate_has_the_real_numbers_and_refuses_unequal_ones() -> None:
    """accelerate divides the processes by the machines: 3 on 2 machines start 2, and nothing is said."""
    attempt = plan_attempt(RUN, [member("a", 2), member("bb", 2)], 1)
    text = accelerate_yaml(attempt, attempt.nodes[1])
    values, _ = parse(text, "accelerate.yaml")
    assert (values["machine_rank"], values["num_machines"], values["num_processes"]) == (1, 2, 4)
    assert "not for accelerate launch" not in text
    unequal = plan_attempt(RUN, [member("a", 1), member("bb", 2)], 1)
    assert accelerate_yaml(unequal, unequal.nodes[0]).startswith("# not for accelerate launch")


def test_what_a_node_reads_holds_no_key_and_no_user() -> None:
    secret = replace(member("a", 1), host=Host(address="h", name="a", user="root", key_file="id_secret"))
    attempt = plan_attempt(RUN, [secret], 1)
    shown = io.StringIO()
    print(attempt.for_node(attempt.nodes[0], "owner"), file=shown)
    assert "id_secret" not in shown.getvalue()
    assert "root" not in shown.getvalue()


@given(st.text(max_size=80))
def test_a_run_name_is_a_folder_name_on_every_system(text: str) -> None:
    name = run_name(text)
    assert name and len(name) <= 60 and not set(name) & set('/\\:*?"<>| ') and not name.startswith((".", "-"))
