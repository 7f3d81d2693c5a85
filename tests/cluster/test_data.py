"""Data on nodes: shipped once, compared by content, the first differing file named."""

import shutil
from pathlib import Path

import pytest

from loraloom.cluster.deploying import data_manifest, data_name, ship_data
from loraloom.cluster.links import Link
from loraloom.cluster.preflight import check_data
from loraloom.cluster.trees import manifest_of

from .conftest import Lab, run_async

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "style"
    (folder / "images").mkdir(parents=True)
    (folder / "manifest.jsonl").write_text("{}\n")
    (folder / "images" / "a.png").write_bytes(b"a" * 1000)
    return folder


def test_the_first_file_that_differs_on_a_node_is_named(lab: Lab, tmp_path: Path, data: Path) -> None:
    manifest = data_manifest(data, tmp_path)
    copies = {"ada": tmp_path / "same", "bob": tmp_path / "other"}
    for copy in copies.values():
        shutil.copytree(data, copy)
    (copies["bob"] / "images" / "a.png").write_bytes(b"b" * 1000)
    links = [Link(host, lab.fake.connect) for host in lab.hosts]
    agents = {host.name: lab.member(host, "x").agent("")[:-1] for host in lab.hosts}
    folders = {name: str(copy) for name, copy in copies.items()}
    (finding,) = run_async(check_data(links, agents, folders, manifest))
    assert (finding.node, finding.fatal) == ("bob", True)
    assert "images/a.png differs" in finding.what


def test_data_are_at_a_host_after_shipping_and_are_not_sent_twice(lab: Lab, tmp_path: Path, data: Path) -> None:
    host, manifest = lab.hosts[0], data_manifest(data, tmp_path)
    link = Link(host, lab.fake.connect)
    agent = lab.member(host, "x").agent("hash")
    for _ in range(2):
        assert run_async(ship_data(link, agent, data, manifest, lab.said.append)) == data_name(data, manifest)
    arrived = Path(host.root) / data_name(data, manifest)
    assert manifest_of(arrived).files == manifest_of(data).files
    assert not [line for _, line in lab.fake.lines if line[0] == "tar"], "on this machine a link is enough"
