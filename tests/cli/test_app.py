"""The command line as its user meets it: each test starts a real process unless it says otherwise."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loraloom import __version__
from loraloom.config.generate import GenerateConfig
from loraloom.config.prepare import PrepareConfig
from loraloom.config.reading import read_settings
from loraloom.config.run import RunConfig
from loraloom.utils.locks import lock_folder
from loraloom.utils.output_paths import COMMAND


def loraloom(*arguments: str | bytes, code: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    program = "from loraloom.cli.app import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "120"},
        timeout=120,
    )
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_the_verbs(flag: str) -> None:
    text = loraloom(flag).stdout
    for verb in ("config", "diff", "doctor", "plan"):
        assert f"\n  {verb} " in text


def test_version() -> None:
    assert loraloom("--version").stdout == f"loraloom {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["config", "--help"], ["doctor", "-h"], ["plan", "--help"], ["plan", "verify", "-h"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from loraloom.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'diffusers', 'transformers', 'rich', 'PIL', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert 'loraloom.config.run' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True, timeout=60)


def test_the_list_of_verbs_imports_no_settings() -> None:
    program = "import sys, loraloom.cli.app\nassert 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)


def test_an_unknown_verb_names_the_nearest() -> None:
    assert (
        loraloom("confg", code=2).stderr == "error: unknown verb: got 'confg'\n  did you mean 'config' or 'caption'?\n"
    )


def test_an_unknown_word_of_a_group_names_the_nearest() -> None:
    assert loraloom("plan", "chek", code=2).stderr == (
        "error: unknown command of plan: got 'chek'\n  did you mean 'check'?\n"
    )


def test_a_group_tells_its_words_in_full() -> None:
    text = " ".join(loraloom("plan", "-h").stdout.split())
    assert "check Print what a text asks for and what is wrong with it, before an image is generated." in text


def test_an_unknown_flag_is_told() -> None:
    assert "--resolvd" in loraloom("config", "--resolvd", "x", code=2).stderr


def test_config_prints_a_template_that_reads_back(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(loraloom("config").stdout, encoding="utf-8")
    assert read_settings(RunConfig, file) == RunConfig()
    for verb, kind in (("prepare", PrepareConfig), ("generate", GenerateConfig)):
        (tmp_path / verb).with_suffix(".yaml").write_text(loraloom("config", verb).stdout, encoding="utf-8")
        assert read_settings(kind, (tmp_path / verb).with_suffix(".yaml")) == kind()
    assert "did you mean 'prepare'?" in loraloom("config", "prepar", code=2).stderr
    file.write_text("lora: {rank: 3}\n", encoding="utf-8")
    resolved = loraloom("config", "--resolved", str(file)).stdout
    assert "rank: 3\n" in resolved
    assert "#" not in resolved


def test_diff_shows_what_differs(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("lora: {rank: 3}\n", encoding="utf-8")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml").write_text("{}\n", encoding="utf-8")
    assert loraloom("diff", "a.yaml", "run", cwd=tmp_path).stdout.splitlines() == [
        "setting    a.yaml  run  resumable",
        "lora.rank  3       16   no",
    ]


def test_a_mistake_is_a_line_or_two_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("lora: {rankk: 3}\n", encoding="utf-8")
    assert loraloom("config", "--resolved", "a.yaml", code=2, cwd=tmp_path).stderr == (
        "error: a.yaml: lora.rankk: unknown (did you mean 'rank'?), got 3 (line 1)\n"
        "  `loraloom config train` prints every setting with its limits\n"
    )


@pytest.mark.skipif(os.name == "nt", reason="command lines are UTF-16 there")
@pytest.mark.parametrize(
    "arguments", [["generate", "--model", "builtin:mini", b"caf\xe9"], ["prepare", b"caf\xe9", "--out", "x"], [b"\xff"]]
)
def test_a_command_line_that_is_not_utf_8_is_a_line_and_no_traceback(tmp_path: Path, arguments: list[Any]) -> None:
    """Bytes in another encoding gave 75 lines of traceback, from deep inside the tokenizer."""
    said = loraloom(*arguments, code=2, cwd=tmp_path).stderr
    assert said.startswith(
        f"error: argument {[isinstance(one, bytes) for one in arguments].index(True) + 1} is not UTF-8"
    )
    assert len(said.splitlines()) <= 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [["train", "--dataset", "gone", "--out", "busy"], ["generate", "--model", "gone", "--out", "busy", "a cat"]],
    ids=lambda arguments: arguments[0],
)
def test_a_busy_folder_is_told_before_torch_is_imported(tmp_path: Path, arguments: list[str]) -> None:
    with lock_folder(tmp_path / "busy"):
        program = "import sys; sys.modules['torch'] = None; from loraloom.cli.app import main; main()"
        result = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=120
        )
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith(f"error: another process is at work in busy: got 'process {os.getpid()} on ")


def test_a_reader_that_goes_away_is_met_in_silence() -> None:
    """`loraloom config | head -1` once ended in `Exception ignored in: <stdout> BrokenPipeError`."""
    program = "import loraloom.cli.app as cli, time; time.sleep(0.3); cli.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "config"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait(timeout=60)


def test_control_c_says_so_in_a_word() -> None:
    program = (
        "import loraloom.cli.app as cli\n"
        "def hang(): raise KeyboardInterrupt\n"
        "hang.__doc__ = 'Hang.'\n"
        "cli.VERBS = (cli.Verb(hang),)\n"
        "cli.main()\n"
    )
    result = subprocess.run([sys.executable, "-c", program, "hang"], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (130, "interrupted\n")


def test_our_own_bug_keeps_its_traceback() -> None:
    program = (
        "import loraloom.cli.app as cli\n"
        "def broken():\n"
        "    'Break.'\n"
        "    raise RuntimeError('ours')\n"
        "cli.VERBS = (cli.Verb(broken),)\n"
        "cli.main()\n"
    )
    result = subprocess.run([sys.executable, "-c", program, "broken"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback")
    assert result.stderr.endswith("RuntimeError: ours\n")


def test_samples_draws_what_any_domain_draws_and_says_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "of mine"
    folder.mkdir()
    result = loraloom("samples", "scenes", "--out", ".", "--count", "2", cwd=folder)
    step = f"{COMMAND} prepare . --out 'datasets/of mine' --domain scenes --size 256 --resample nearest"
    assert result.stdout == f"next: {step}\n"
    loraloom("samples", "floorplan", "--out", "plans", "--count", "1", cwd=tmp_path)
    assert (tmp_path / "plans" / "truth" / "0.json").is_file()
    loraloom("samples", "plans", "--style", "plain", "--out", "plain", "--count", "1", cwd=tmp_path)
    assert (tmp_path / "plain" / "input_text" / "0.txt").read_text(encoding="utf-8").startswith("Plain")
    loraloom("samples", "styles", "--out", "styles", "--count", "1", cwd=tmp_path)
    assert json.loads((tmp_path / "styles" / "scenes.json").read_text(encoding="utf-8"))["style"] == "watercolour"
    unknown = loraloom("samples", "freetext", "--out", "x", code=2, cwd=tmp_path).stderr
    assert unknown.startswith("error: unknown kind of samples: got 'freetext'")


def test_a_file_in_the_way_of_a_folder_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "afile").touch()
    for out in ("afile", "afile/below"):
        text = loraloom("samples", "scenes", "--out", out, code=2, cwd=tmp_path).stderr
        assert text == "error: afile is a file, expected a folder to write into\n  name another folder\n"


@pytest.mark.parametrize(
    "code", ["ENOTDIR", "EEXIST", "EISDIR", "ENOSPC", "ENOENT", "ELOOP", "ENAMETOOLONG", "ENOTEMPTY", "EIO"]
)
def test_a_disk_that_refuses_is_told_in_a_word(code: str) -> None:
    program = (
        "import errno, os, loraloom.cli.app as cli\n"
        "def refused():\n"
        "    'Refuse.'\n"
        f"    raise OSError(errno.{code}, os.strerror(errno.{code}), 'somewhere')\n"
        "cli.VERBS = (cli.Verb(refused),)\n"
        "cli.main()\n"
    )
    result = subprocess.run([sys.executable, "-c", program, "refused"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith(": somewhere\n")
