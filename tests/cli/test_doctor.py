"""What the doctor says about a machine."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from loraloom import plugins
from loraloom.cli import doctor
from loraloom.cli.doctor import GIB, Check


def version_of(**versions: str) -> Callable[[str], str]:
    def find(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    return find


def test_packages_at_their_minimum_are_well() -> None:
    assert doctor.check_packages(["torch>=2.10", "wandb; extra == 'track'"], version_of(torch="2.10.0+cpu")) == [
        Check("packages", "ok", "torch 2.10.0+cpu")
    ]


def test_a_package_that_is_old_or_missing_fails_with_what_to_install() -> None:
    old, missing, rest = doctor.check_packages(
        ["torch>=2.10", "peft<1,>=0.18", "numpy"], version_of(torch="2.9", numpy="2")
    )
    assert old == Check("torch", "fail", "2.9, expected >=2.10", "pip install 'torch>=2.10'")
    assert missing == Check("peft", "fail", "not installed", "pip install 'peft<1,>=0.18'")
    assert rest == Check("packages", "ok", "numpy 2")


def test_this_environment_holds_what_the_package_asks_for() -> None:
    checks = doctor.check_packages(metadata.requires("loraloom") or [])
    assert [check.verdict for check in checks] == ["ok"]


def test_sources_that_are_not_installed_are_a_warning() -> None:
    """Seen on a machine that had the sources on its path only: `doctor` died of the package that it did not find."""
    (check,) = doctor.check_own_packages("loraloom-that-nobody-installed")
    assert check.verdict == "warn" and "not compared" in check.found


def test_an_old_python_fails() -> None:
    assert doctor.check_python((3, 10)).verdict == "fail"
    assert doctor.check_python((3, 11)).verdict == "ok"


def test_a_broken_torchvision_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was built for another torch stays unnoticed until transformers imports it in the middle of a run."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    check = doctor.check_torchvision()
    assert check.verdict == "fail"
    assert "torchvision::nms does not exist" in check.found
    assert "uninstall" in check.fix


def test_memory_below_eight_gib_is_a_warning() -> None:
    assert doctor.check_memory(4 * GIB).verdict == "warn"
    assert doctor.check_memory(16 * GIB) == Check("memory", "ok", "16.0 GiB")
    assert doctor.check_memory(None).verdict == "warn"
    assert (doctor.total_memory_bytes() or 0) > 0


@pytest.mark.parametrize(("free", "verdict"), [(GIB // 2, "fail"), (5 * GIB, "warn"), (50 * GIB, "ok")])
def test_a_full_disk_is_found(free: int, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)  # pyright: ignore[reportUnknownLambdaType]
    check = doctor.check_disk("disk", tmp_path / "not" / "yet" / "made")
    assert check.verdict == verdict
    assert bool(check.fix) == (verdict != "ok")


def test_a_missing_compiler_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert doctor.check_compiler().verdict == "warn"


def test_a_model_folder_is_told_from_a_folder(tmp_path: Path, tiny_model: Path) -> None:
    assert doctor.check_model(str(tmp_path)).verdict == "fail"
    (tmp_path / "model_index.json").write_text("{}", encoding="utf-8")
    check = doctor.check_model(str(tmp_path))
    assert (check.verdict, check.found) == (
        "fail",
        f"no family knows this model: got '{tmp_path}', expected one of {', '.join(plugins.names('families'))}",
    )
    assert doctor.check_model(str(tiny_model)).verdict == "ok"


def test_a_model_whose_config_is_out_of_range_is_named_with_the_key(tmp_path: Path, tiny_model: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((model / "vae/config.json").read_text(encoding="utf-8"))
    (model / "vae/config.json").write_text(json.dumps({**config, "norm_num_groups": 0}), encoding="utf-8")
    check = doctor.check_model(str(model))
    assert check.verdict == "fail"
    assert "vae/config.json: norm_num_groups: got 0" in check.found


def test_a_pickled_checkpoint_fails(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x04")
    check = doctor.check_model(str(tmp_path / "model.ckpt"))
    assert check.verdict == "fail"
    assert "pickled" in check.found


def test_a_truncated_checkpoint_fails(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff\x00")
    assert doctor.check_model(str(tmp_path / "model.safetensors")).verdict == "fail"


@pytest.mark.parametrize("location", ["./none", "a/b/c", "word", "..", "/none/there"])
def test_a_path_that_is_not_here_is_not_taken_for_a_hub_id(location: str, tmp_path: Path) -> None:
    check = doctor.check_model(location if location != ".." else str(tmp_path / "gone"))
    assert check.verdict == "fail"
    assert "hub id" in check.fix


def test_offline_a_model_outside_the_cache_fails_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    check = doctor.check_model("nobody/never-was")
    assert check.verdict == "fail"
    assert "HF_HUB_OFFLINE is set" in check.found


def test_a_hub_that_cannot_be_reached_is_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: object, **named: object) -> None:
        assert named["timeout"] == doctor.HUB_TIMEOUT_S
        raise OSError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    check = doctor.check_model("nobody/never-was")
    assert check.verdict == "fail"
    assert "Name or service not known" in check.found
    assert "copy the model to this machine" in check.fix


def test_a_folder_without_a_manifest_is_no_dataset(tmp_path: Path) -> None:
    check = doctor.check_dataset(tmp_path)
    assert check.verdict == "fail"
    assert "prepare" in check.fix


def test_a_machine_without_a_gpu_is_told_its_cores() -> None:
    checks = doctor.check_torch()
    assert checks[0].name == "torch"
    assert all(check.name.startswith("GPU") for check in checks[1:])


def test_json_holds_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    checks = [Check("a", "ok", "[x]"), Check("b", "fail", "y", "do")]
    doctor.print_checks(checks, as_json=True)
    assert json.loads(capsys.readouterr().out) == [
        {"name": "a", "verdict": "ok", "found": "[x]", "fix": ""},
        {"name": "b", "verdict": "fail", "found": "y", "fix": "do"},
    ]


def test_the_table_shows_what_to_do_and_takes_nothing_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.print_checks(
        [Check("a", "ok", "[x]"), Check("b", "fail", "y", "pip install 'loraloom[track]'")], as_json=False
    )
    out = capsys.readouterr().out
    assert "[x]" in out
    assert "-> pip install 'loraloom[track]'" in out
    assert "1 ok, 0 warn, 1 fail" in out


def test_a_failing_check_ends_with_status_one(tmp_path: Path) -> None:
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "from loraloom.cli.app import main; main()",
            "doctor",
            "--json",
            "--dataset",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        timeout=120,
    )
    assert result.returncode == 1
    checks = {check["name"]: check for check in json.loads(result.stdout)}
    assert checks["dataset"]["verdict"] == "fail"
    assert {"Python", "packages", "torch", "memory", "disk here", "compiler", "trackers"} <= set(checks)
