"""A host whose disk is full while a release is shipped to it."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from loraloom.cluster.deploying import Release, deploy, make_archive
from loraloom.cluster.hosts import Host
from loraloom.cluster.links import Link
from loraloom.utils.errors import UserError

from .conftest import run_async

pytestmark = [pytest.mark.root, pytest.mark.skipif(sys.platform != "linux", reason="mounts a small tmpfs")]


def test_a_release_that_does_not_fit_is_one_line_and_is_sent_again_when_there_is_room(
    deployed: tuple[Release, list[Host]], small_disk: Callable[[str], Path]
) -> None:
    release, hosts = deployed
    disk = small_disk("900k")
    (disk / "kept").write_text("kept", encoding="utf-8")
    archive = make_archive(release)
    host = replace(hosts[0], name="full", root=disk.as_posix())
    said: list[str] = []
    with pytest.raises(UserError, match="full") as error:
        run_async(deploy(Link(host), release, archive, said.append))
    text = str(error.value)
    assert "No space left on device" in text
    assert len(text) < 1000 and len(text.splitlines()) <= 2, text
    assert not said
    assert (disk / "kept").read_text(encoding="utf-8") == "kept"
    subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
    target = run_async(deploy(Link(host), release, archive, said.append))
    archive.unlink()
    assert Path(target, "node.py").is_file()
    assert "files" in said[-1]
