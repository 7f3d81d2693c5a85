"""Preflight: each fault has its own plain message; a healthy pair has none."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from loraloom.cluster.hosts import Host
from loraloom.cluster.node_facts import VERSIONS, connect, interface_of, listen, own_address
from loraloom.cluster.preflight import NodeReport, compare
from loraloom.config.cluster import ClusterConfig
from loraloom.utils.ranks import free_port

GPU = {"name": "RTX", "memory_mib": 24576, "used_mib": 0, "busy_percent": 0, "driver": "580.1"}


def report(name: str = "a", host: dict[str, Any] | None = None, now: float = 100.5, **facts: Any) -> NodeReport:
    usual: dict[str, Any] = {
        "time": now,
        "python": "3.11.7",
        "versions": dict.fromkeys(VERSIONS, "2.0"),
        "gpus": [GPU],
        "free_bytes": 100 << 30,
        "root": "/data",
        "speed_mbit": 1000,
    }
    return NodeReport(
        host=Host(address=name, name=name, **(host or {})), facts=usual | facts, asked_at=100.0, answered_at=101.0
    )


def messages(*reports: NodeReport, cpu: bool = False) -> list[str]:
    return [str(finding) for finding in compare(reports, ClusterConfig(), cpu=cpu)]


def test_healthy_nodes_have_no_finding() -> None:
    assert messages(report("a"), report("b", {"gpus": 1})) == []


@pytest.mark.parametrize("now", [100.0 - 1.9, 100.5, 101.0 + 1.9])
def test_a_clock_within_the_limit_of_question_and_answer_is_right(now: float) -> None:
    assert messages(report(now=now)) == []


@pytest.mark.parametrize(("now", "text"), [(80.0, "20.0 s behind"), (121.0, "20.0 s ahead of")])
def test_a_wrong_clock_is_named_with_its_direction(now: float, text: str) -> None:
    """With a clock 20 s behind, torch elastic trained on one of two nodes and said nothing."""
    (line,) = messages(report(now=now))
    assert text in line and line.startswith("error: [a]")


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (report("b", {"gpus": 2}), "1 GPUs are there, 2 are expected"),
        (report("b", {"processes": 2}), "2 processes for 1 GPUs"),
        (report("b", free_bytes=1 << 30), "1.0 GiB of disk are free"),
        (report("b", versions={**dict.fromkeys(VERSIONS, "2.0"), "torch": "2.9"}), "torch is 2.9, on a it is 2.0"),
        (report("b", python="3.12.1"), "Python is 3.12, on a it is 3.11"),
    ],
)
def test_what_keeps_a_node_from_training_is_an_error_with_the_values(one: NodeReport, text: str) -> None:
    lines = messages(report("a"), one)
    assert any(text in line and line.startswith("error: [b]") for line in lines), lines


def test_a_build_of_torch_for_a_gpu_is_the_same_version() -> None:
    versions = {**dict.fromkeys(VERSIONS, "2.0"), "torch": "2.0+cu130"}
    assert messages(report("a"), report("b", versions=versions)) == []


def test_a_slow_network_and_another_driver_are_warnings() -> None:
    lines = messages(report("a"), report("b", speed_mbit=100, gpus=[{**GPU, "driver": "570.0"}]))
    assert [line.split(":")[0] for line in lines] == ["warning", "warning"]
    assert "100 Mbit/s" in lines[0] and "570.0" in lines[1]


def test_gpus_do_not_matter_on_the_cpu() -> None:
    assert messages(report("a", {"gpus": 4, "processes": 8}), cpu=True) == []


def test_a_node_listens_no_longer_than_until_all_others_have_called() -> None:
    ports = [free_port(), free_port()]
    began = time.monotonic()
    with ThreadPoolExecutor() as pool:
        listening = pool.submit(listen, ports, 600.0, 2)
        for _ in range(2):
            assert not any(connect([("127.0.0.1", port) for port in ports], 60.0).values())
        assert listening.result() == {"busy": []}
    assert time.monotonic() - began < 600


def test_the_interface_is_the_one_that_carries_the_own_address() -> None:
    address = own_address("127.0.0.1")
    assert address == "127.0.0.1"
    assert interface_of(address) in {"lo", None}
