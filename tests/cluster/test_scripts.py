"""The scripts of step 1 and 2: they parse, obey the rules that the first scripts of this kind broke, and undo what they do."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loraloom.extensions.transports.psrp import SCRIPT, parameters

ROOT = Path(__file__).parents[2]
POWERSHELL = sorted((ROOT / "scripts").glob("*.ps1"))
TEXTS = {**{path.name: path.read_bytes() for path in POWERSHELL}, "psrp.SCRIPT": SCRIPT.encode()}

PESTER = sorted((ROOT / "tests" / "pester").glob("*.Tests.ps1"))
"""Tests for Windows; not run here, but they must parse."""

CMDLETS = re.compile(r"\b(?:Set|Get|New|Enable|Add|Remove|Start|Stop|Test|Write|Out|Invoke)-[A-Za-z]+\b")


def tree(text: bytes) -> Any:
    language = pytest.importorskip("tree_sitter_powershell", reason="needs tree-sitter-powershell")
    from tree_sitter import Language, Parser  # pyright: ignore[reportMissingImports]

    return Parser(Language(language.language())).parse(text).root_node


def nodes(root: Any, kind: str) -> Iterator[str]:
    """Texts of all nodes of a kind."""
    pending = [root]
    while pending:
        node = pending.pop()
        pending += node.children
        if node.type == kind:
            yield node.text.decode()


@pytest.mark.parametrize("name", TEXTS)
def test_a_powershell_script_parses(name: str) -> None:
    assert not tree(TEXTS[name]).has_error


@pytest.mark.parametrize("path", PESTER, ids=lambda path: path.name)
def test_a_pester_test_parses_and_tests_a_script_that_is_there(path: Path) -> None:
    text = path.read_bytes()
    assert text.isascii() and not tree(text).has_error
    assert b"Not run here" in text
    assert (ROOT / "scripts" / path.name.replace(".Tests.ps1", ".ps1")).is_file()


def test_pester_tests_mock_functions_that_the_script_has_and_cmdlets_that_it_calls() -> None:
    """A mock of a name that nobody calls would let a test pass for ever."""
    script = (ROOT / "scripts" / "worker_setup.ps1").read_text(encoding="ascii")
    mocked = re.findall(r"Mock -CommandName ([\w-]+)", (PESTER[1]).read_text(encoding="ascii"))
    assert mocked and all(re.search(rf"\b{re.escape(name)}\b", script) for name in mocked)


def test_everything_that_the_worker_script_switches_off_is_switched_on_again() -> None:
    """-Undo left the rules of Windows disabled, and took away a listener that was there before."""
    script = (ROOT / "scripts" / "worker_setup.ps1").read_text(encoding="ascii")
    undo = script[script.index("function Restore-Before") : script.index("if (-not (Test-Administrator))")]
    (listed,) = re.findall(r"\$OpenRules = @\((.*?)\)", script)
    disabled = set(re.findall(r"Disable-NetFirewallRule -Name ('[\w-]+')", script))
    assert disabled and disabled <= set(listed.split(", "))
    assert "$before.Rules" in undo and "Enable-NetFirewallRule" in undo
    saved = script[script.index("function Save-Before") : script.index("function Read-Before")]
    for name in re.findall(r"^        (\w+) +=", saved, flags=re.MULTILINE):
        assert f"$before.{name}" in undo, f"{name} is kept but not restored"


@pytest.mark.parametrize("name", TEXTS)
def test_a_powershell_script_is_ascii_so_that_version_5_reads_it_without_a_byte_order_mark(name: str) -> None:
    assert TEXTS[name].isascii()


@pytest.mark.parametrize("name", TEXTS)
def test_no_function_shadows_a_cmdlet_that_the_script_uses(name: str) -> None:
    """`function Set-ExecutionPolicy` called itself until the stack was full."""
    text = TEXTS[name].decode()
    functions = set(re.findall(r"^\s*function\s+([\w-]+)", text, flags=re.MULTILINE | re.IGNORECASE))
    known = {
        *("Set-ExecutionPolicy", "Enable-PSRemoting", "New-NetFirewallRule", "Set-Service", "Start-Service"),
        *("Set-Item", "New-Item", "Remove-Item", "Get-Item", "Write-Output", "Start-Process", "Copy-Item"),
    }
    assert not {one.lower() for one in functions} & {one.lower() for one in known}


@pytest.mark.parametrize("name", TEXTS)
def test_no_script_weakens_the_machine(name: str) -> None:
    code = re.sub(r"<#.*?#>|^\s*#.*$", "", TEXTS[name].decode(), flags=re.MULTILINE | re.DOTALL)
    for pattern in (
        *(r"Invoke-Expression", r"\biex\b", r"TrustedHosts", r"AllowUnencrypted", r"AsPlainText", r"\$Password\b"),
        *(r"Set-ExecutionPolicy", r"SkipNetworkProfileCheck", r"EnableNetworkProtocol", r"Basic\s*=\s*.?true"),
    ):
        assert not re.search(pattern, code, flags=re.IGNORECASE), pattern


@pytest.mark.parametrize("name", TEXTS)
def test_every_firewall_rule_names_the_addresses_that_it_lets_in(name: str) -> None:
    for command in nodes(tree(TEXTS[name]), "command"):
        if command.startswith("New-NetFirewallRule"):
            assert "-RemoteAddress $MasterIP" in command
            assert "Public" not in command


@pytest.mark.parametrize("name", TEXTS)
def test_nothing_is_removed_recursively_but_what_the_script_made_itself(name: str) -> None:
    """`Remove-Item -Recurse -Force $ProjectPath` before a copy deleted environments and checkpoints."""
    for command in nodes(tree(TEXTS[name]), "command"):
        if command.startswith("Remove-Item") and "-Recurse" in command:
            assert "$folder" in command or command == "Remove-Item -Recurse -Confirm:$false"


def test_the_psrp_script_takes_values_as_parameters_only() -> None:
    assert "{" + "}" not in SCRIPT and "%s" not in SCRIPT
    given = parameters(["C:\\a b\\python.exe", "node.py", "a b", "$(x); y"], b"\x00\xff", "", 60)
    assert given["Line"] == 'node.py "a b" "$(x); y"'
    assert given["Data"] == "AP8="
    declared = re.findall(r"\$(\w+)", SCRIPT.splitlines()[0])
    assert set(given) == set(declared)


def test_the_windows_script_passes_the_parameters_of_the_command_line() -> None:
    """Every flag that `master_deploy.ps1` writes is one of `loraloom cluster launch`."""
    import typer

    from loraloom.cli.app import app

    group: Any = typer.main.get_command(app)
    launch = group.get_command(None, "cluster").get_command(None, "launch")
    flags = {flag for item in launch.params for flag in item.opts}
    text = (ROOT / "scripts" / "master_deploy.ps1").read_text(encoding="ascii")
    used = set(re.findall(r"'(--[a-z-]+)'", text))
    assert used <= flags
    for parameter in ("WorkerIPs", "WorkersFile", "ConfigFile", "ProjectPath", "Port", "SkipDeploy", "DryRun"):
        assert re.search(rf"\${parameter}\b", text)


# ------------------------------------------------------------------------------------------------ the script for Linux

needs_bash = pytest.mark.skipif(sys.platform != "linux", reason="a script for Linux")
SETUP = ROOT / "scripts" / "worker_setup.sh"


def setup(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "LORALOOM_STATE": str(folder / "state")}
    return subprocess.run(
        ["bash", str(SETUP), *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=60
    )


@needs_bash
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--cluster is required"),
        (["--cluster", "0.0.0.0/0; reboot"], "takes addresses"),
        (["--cluster", "10.0.0.1", "--range", "all"], "FIRST:LAST"),
        (["--cluster", "10.0.0.1", "--key", "none.pub"], "is missing"),
        (["--cluster", "10.0.0.1", "--user", "no-such-account"], "no account"),
        (["--everybody"], "unknown option"),
    ],
)
def test_a_mistake_is_named_before_anything_is_changed(tmp_path: Path, arguments: list[str], text: str) -> None:
    ran = setup(tmp_path, *arguments)
    assert ran.returncode == 2
    assert text in ran.stderr
    assert not list(tmp_path.iterdir())


@needs_bash
def test_check_changes_nothing_and_tells_what_would_be_done(tmp_path: Path) -> None:
    ran = setup(tmp_path, "--cluster", "10.0.0.1,10.0.0.2", "--check")
    assert ran.returncode == 0, ran.stderr
    assert not list(tmp_path.iterdir())
    assert '"ComputerName"' in ran.stdout


@needs_bash
def test_undo_without_a_setup_changes_nothing(tmp_path: Path) -> None:
    ran = setup(tmp_path, "--undo")
    assert (ran.returncode, ran.stdout.strip()) == (0, "nothing to undo")
