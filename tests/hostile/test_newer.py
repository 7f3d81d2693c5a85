"""As `test_hostile`, for what extensions read, for records of later verbs, and for files that are odd as a whole.

The default run reads a few of each; `pytest -m hostile` reads all, each in a process with limits.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from loraloom import plugins

from .extensions import (
    build_source,
    captioner_artefacts,
    family_artefacts,
    format_artefacts,
    odd_shards,
    odd_tables,
    use_source,
    write_arrow,
    write_parquet,
)
from .kinds import Artefact, Case, Odd, sample
from .limits import faults_of
from .records import odd_graphs, odd_numbers, odd_parameters, read_png, record_artefacts, write_png

RECORDS = [artefact.name for artefact in record_artefacts()]
CAPTIONERS = [
    name
    for name in plugins.names("captioners")
    if getattr(plugins.load_contract("captioners", name), "build_tiny", None) is not None
]
EXTENSIONS = [
    *(("families", name) for name in plugins.names("families")),
    *(("captioners", name) for name in CAPTIONERS),
    *(("formats", name) for name in plugins.names("formats")),
]
FEW = 6
every_extension = pytest.mark.parametrize(
    ("kind", "name"), EXTENSIONS, ids=[f"{kind}-{name}" for kind, name in EXTENSIONS]
)


def within_limits(test: Any) -> Any:
    """The marks of a test that forks processes with limits, for minutes."""
    linux = pytest.mark.skipif(sys.platform != "linux", reason="counts address space as Linux does, and forks")
    for mark in (pytest.mark.hostile, pytest.mark.slow, pytest.mark.timeout(3600), linux):
        test = mark(test)
    return test


def artefacts_of(kind: str, name: str, folder: Path) -> list[Artefact]:
    """The artefacts of an extension around a good folder, which is made."""
    contract = plugins.load_contract(kind, name) if kind != "families" else None
    for module in getattr(contract, "needs", ()):
        pytest.importorskip(module, reason=f"{name} is tested with {module}")
    if kind == "families":
        return family_artefacts(name, plugins.load(kind, name).build_tiny(folder, seed=0))
    if kind == "captioners":
        folder.mkdir()
        contract.build_tiny(folder)
        return captioner_artefacts(name, folder)
    build_source(name, folder)
    return format_artefacts(name, folder)


def odd_ones() -> dict[str, list[Odd]]:
    """Odd files by what they are."""
    pngs = {
        "parameters": [Odd(f"parameters: {name}", partial(write_png, {"parameters": text}), read_png)
 for name, text in odd_parameters().items()],
        "graph": [Odd(f"graph: {name}", partial(write_png, {"prompt": text}), read_png) for name, text in odd_graphs().items()],
    }  # fmt: skip
    shards = [Odd(f"shard: {name}", make, use_source) for name, make in odd_shards().items()]
    numbers = [Odd(f"numbers: {name}", _nothing, read) for name, read in odd_numbers().items()]
    return {
        **pngs,
        "shard": shards,
        "numbers": numbers,
        "Parquet": _tables(write_parquet),
        "Arrow": _tables(write_arrow),
    }


def _nothing(*folder: Path) -> None:
    """Make or warm nothing."""


def _tables(write: Any) -> list[Odd]:
    try:
        tables = odd_tables()
    except ImportError:
        return []
    return [
        Odd(f"{write.__name__}: {name}", lambda folder, make=make: write(make(), folder), use_source)
        for name, make in tables.items()
    ]


ODD = odd_ones()


def run_few(cases: Sequence[Case | Odd], folder: Path) -> None:
    """Run some cases in this process."""
    for number, case in enumerate(cases):
        try:
            case.run(folder / f"case {number}")
        except BaseException as error:
            raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error


@every_extension
def test_a_harmed_file_of_an_extension_is_refused_in_words_or_can_be_used(kind: str, name: str, tmp_path: Path) -> None:
    found = artefacts_of(kind, name, tmp_path / "good")
    found[0].read(tmp_path / "good")
    cases = [case for artefact in found for case in sample(artefact, 1)]
    run_few(cases[:: max(len(cases) // FEW, 1)][:FEW], tmp_path)


@pytest.mark.parametrize("name", RECORDS)
def test_a_harmed_record_is_refused_in_words_or_can_be_used(name: str, tmp_path: Path) -> None:
    (artefact,) = (one for one in record_artefacts() if one.name == name)
    run_few(sample(artefact, 2 * FEW), tmp_path)


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_file_is_refused_in_words_or_can_be_used(kind: str, tmp_path: Path) -> None:
    run_few(ODD[kind][:: max(len(ODD[kind]) // FEW, 1)], tmp_path)


@within_limits
@every_extension
def test_every_harmed_file_of_an_extension_is_refused_within_limits(kind: str, name: str, tmp_path: Path) -> None:
    found = artefacts_of(kind, name, tmp_path / "good")
    faults: list[str] = []
    for number, artefact in enumerate(found):
        artefact.build(tmp_path / f"good {number}")
        warm = partial(
            artefact.read, tmp_path / f"good {number}"
        )  # imports everything, and shows that a good one is read
        if kind != "captioners":  # threads of onnxruntime do not survive a fork
            warm()
        faults += faults_of(artefact.cases(), tmp_path / f"cases {number}", warm if kind == "captioners" else _nothing)
    assert not faults, f"{len(faults)} cases:\n" + "\n".join(faults)


@within_limits
@pytest.mark.parametrize("name", RECORDS)
def test_every_harmed_record_is_refused_within_limits(name: str, tmp_path: Path) -> None:
    (artefact,) = (one for one in record_artefacts() if one.name == name)
    artefact.build(tmp_path / "good")
    artefact.read(tmp_path / "good")
    faults = faults_of(artefact.cases(), tmp_path / "cases")
    assert not faults, f"{len(faults)} cases:\n" + "\n".join(faults)


@within_limits
@pytest.mark.parametrize("kind", ODD)
def test_every_odd_file_is_refused_within_limits(kind: str, tmp_path: Path) -> None:
    first, *others = ODD[kind]
    first.run(tmp_path / "first")  # imports everything once
    faults = faults_of(others, tmp_path / "cases")
    assert not faults, f"{len(faults)} cases:\n" + "\n".join(faults)
