"""An extension of each kind comes from another package, and nothing in this repository is edited.

A package is made in a temporary folder: modules, and the metadata with which pip registers entry points. The suites then run
in a process that has the folder on its path.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support.images import drawn, save

ROOT = Path(__file__).parents[2]

FORMAT = '''"""A list of captions beside the images: `captions.lst`, one `name<separator>JSON text` a line."""

import json

from loraloom.protocols.contracts import FormatContract
from loraloom.protocols.data import SourceItem
from loraloom.protocols.settings import Settings, setting
from loraloom.utils.listing import walk


class GallerySettings(Settings):
    """Settings of the layout gallery."""

    gallery_separator: str = setting("=", "what stands between name and caption", flag="--gallery-separator", min_length=1)


class Gallery:
    name = "gallery"
    settings = GallerySettings
    expects = "captions.lst with a line for each image"
    priority = 40

    def sniff(self, folder, options):
        if not (folder / "captions.lst").is_file():
            return None
        return f"captions.lst beside {sum(entry.is_image for entry in walk(folder))} images"

    def read(self, folder, options):
        table = folder / "captions.lst"
        lines = table.read_text(encoding="utf-8").split("\\n")
        texts = dict(line.split(options["gallery_separator"], 1) for line in lines if line)
        seen = set()
        for entry in sorted(walk(folder), key=lambda entry: (entry.stem, entry.name)):
            if entry.is_image:
                problem = entry.problem or ("another image has its name" if entry.stem in seen else None)
                seen.add(entry.stem)
                text = texts.get(entry.stem)
                caption = text and json.loads(text)
                yield SourceItem(id=entry.stem, image=entry.path, caption=caption, problem=problem, source=table)


def write(folder, captions, save_image):
    for item_id in captions:
        save_image(folder / f"{item_id}.png")
    lines = [f"{item_id}={json.dumps(text)}" for item_id, text in captions.items()]
    (folder / "captions.lst").write_text("\\n".join(lines), encoding="utf-8")


FORMAT = Gallery()
CONTRACT = FormatContract(write=write)
'''

CAPTIONER = '''"""The mean colour of an image in words."""

from loraloom.protocols.contracts import CaptionerContract, CaptionExample
from loraloom.protocols.settings import Settings, setting


class ColourSettings(Settings):
    """Settings of the captioner mean_colour."""

    mean_colour_noun: str = setting("image", "what the caption says it is", flag="--mean-colour-noun")


class MeanColour:
    name = "mean_colour"
    settings = ColourSettings

    def caption(self, image, item, options, trigger):
        red, _, blue = image.convert("RGB").resize((1, 1)).getpixel((0, 0))
        return f"a {'warm' if red > blue else 'cold'} {options['mean_colour_noun']}"


CAPTIONER = MeanColour()
CONTRACT = CaptionerContract(
    examples=(
        CaptionExample(options={}, trigger="", item_id="a", caption=None),
        CaptionExample(options={"mean_colour_noun": "photo"}, trigger="sks", item_id="b/c", caption=None),
    )
)
'''

DOMAIN = '''"""Texts that are lists with bars between their parts."""

from loraloom.protocols.contracts import DomainContract
from loraloom.protocols.domain import Section
from loraloom.protocols.settings import Settings, setting


class BarsSettings(Settings):
    """Settings of the domain bars."""

    bars_min_side: int = setting(1, "images with a shorter side do not suit, pixels", flag="--bars-min-side", ge=1)


class Bars:
    name = "bars"
    settings = BarsSettings
    dataset_generator = verifier = None
    metrics = ()

    def __init__(self, min_side=1):
        self.min_side = min_side

    def configured(self, options):
        return Bars(options["bars_min_side"])

    def sections(self, caption):
        return [Section("", tuple(caption.split()))] if caption.split() else []

    def mirrored(self, caption):
        return None

    def colours(self, caption):
        return {}

    def check_image(self, image):
        return f"too small for bars: {min(image.size)} pixels" if min(image.size) < self.min_side else None


DOMAIN = Bars()
CONTRACT = DomainContract(captions=("one | two | three",))
'''

METRIC = '''"""Brightness: the mean grey value of generated images, 0 .. 1."""

import numpy as np

from loraloom.protocols.contracts import MetricContract
from loraloom.protocols.evaluation import Figure
from loraloom.protocols.settings import Settings, setting


class BrightnessSettings(Settings):
    """Settings of the metric brightness."""

    brightness_offset: float = setting(0.0, "what is added to the mean grey value", flag="--brightness-offset", ge=0)


class State:
    def __init__(self, offset):
        self._offset, self._values = offset, {}

    def update(self, samples):
        for sample in samples:
            if sample.role == "generated":
                self._values[sample.id] = float(np.asarray(sample.open().convert("L")).mean() / 255)

    def merge_state(self, others):
        for other in others:
            if not isinstance(other, State):
                raise TypeError("State merges with its like only")
            self._values |= other._values

    def compute(self):
        if not self._values:
            return []
        value = float(np.mean([self._values[id_] for id_ in sorted(self._values)])) + self._offset
        return [Figure(name="brightness", label="brightness", better=0, value=value, count=len(self._values))]

    def state_dict(self):
        ids = sorted(self._values)
        return {"ids": np.array(ids), "values": np.array([self._values[id_] for id_ in ids])}

    def load_state_dict(self, state):
        self._values = {str(id_): float(value) for id_, value in zip(state["ids"], state["values"], strict=True)}


class Brightness:
    name = "brightness"
    roles = ("generated",)
    tower = ""
    settings = BrightnessSettings

    def missing(self, there):
        return None if there.counts.get("generated") else "it needs images"

    def start(self, setup):
        return State(setup.options["brightness_offset"])


METRIC = Brightness()
CONTRACT = MetricContract(figures=("brightness",))
'''

BROUGHT = {"formats": "gallery", "captioners": "mean_colour", "domains": "bars", "metrics": "brightness"}
FILES = {"formats": FORMAT, "captioners": CAPTIONER, "domains": DOMAIN, "metrics": METRIC}


def package(folder: Path, name: str, points: dict[str, dict[str, str]]) -> None:
    """What pip leaves of a package: its metadata with the entry points."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    groups = [
        "\n".join([f"[loraloom.{kind}]", *(f"{key} = {module}" for key, module in names.items())])
        for kind, names in points.items()
    ]
    (info / "entry_points.txt").write_text("\n\n".join(groups) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    for kind, name in BROUGHT.items():
        (folder / f"throw_away_{name}.py").write_text(FILES[kind], encoding="utf-8")
    package(folder, "throw-away", {kind: {name: f"throw_away_{name}"} for kind, name in BROUGHT.items()})
    return folder


def run(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Python with the packages of `folder` installed."""
    path = os.pathsep.join([str(folder), str(ROOT / "src"), str(ROOT)])
    environ = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT, env=environ, capture_output=True, text=True, encoding="utf-8", timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def verdicts(brought: Path) -> list[str]:
    """What the suites say of each test of what the package brings, all kinds in one process."""
    suites = [*(f"tests/contract/{kind}" for kind in BROUGHT), "tests/contract/test_extensions.py"]
    alone = ["-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist"]
    done = run(brought, "-m", "pytest", "-v", *alone, "-k", " or ".join(BROUGHT.values()), *suites)
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(BROUGHT))
def test_the_suite_of_its_kind_runs_for_it(kind: str, verdicts: list[str]) -> None:
    told = [line for line in verdicts if BROUGHT[kind] in line and "::" in line]
    passed = [line for line in told if "PASSED" in line]
    assert sum(f"tests/contract/{kind}" in line for line in passed) >= 3, verdicts
    assert len(passed) >= 6, verdicts
    assert not [line for line in told if "FAILED" in line]


def test_its_settings_are_in_help_and_template_and_are_read_strictly(brought: Path) -> None:
    text = " ".join(run(brought, "-m", "loraloom", "prepare", "--help").stdout.split())
    for flag in ("--gallery-separator", "--mean-colour-noun", "--bars-min-side"):
        assert flag in text
    assert "Settings of the layout gallery:" in text
    template = run(brought, "-m", "loraloom", "config", "prepare").stdout
    assert "# Settings of the domain bars.\n# images with a shorter side" in template
    assert "bars_min_side: 1\n" in template
    wrong = run(brought, "-m", "loraloom", "prepare", ".", "--out", "x", "--bars-min-side", "0", code=2).stderr
    assert wrong.startswith("error: bars_min_side: got '0', expected an integer >= 1")
    near = run(brought, "-m", "loraloom", "prepare", ".", "--out", "x", "--set", "bars_min_sid=2", code=2).stderr
    assert "did you mean 'bars_min_side'" in near


def test_it_is_listed_with_its_package_and_has_a_page(brought: Path) -> None:
    listed = run(brought, "-m", "loraloom", "extensions").stdout
    text = " ".join(listed.split())
    assert "`gallery`: A list of captions beside the images" in text
    assert "by throw-away 1.0 (throw_away_gallery)" in text
    page = run(brought, "-m", "loraloom", "extensions", "gallery").stdout
    assert "| `gallery_separator` | `--gallery-separator` |" in page


def test_a_run_uses_its_settings_and_records_them(brought: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for number in range(3):
        save(drawn(number, 32, 32), raw / f"{number}.png")
    (raw / "captions.lst").write_text('0:"zero"\n1:"one"', encoding="utf-8")
    given = ["--gallery-separator", ":", "--captioner", "mean_colour", "--mean-colour-noun", "blot"]
    given += ["--domain", "bars", "--bars-min-side", "64", "--size", "32", "--min-size", "1", "--num-workers", "1"]
    arguments = ["-m", "loraloom", "prepare", str(raw), "--out", str(tmp_path / "out"), *given]
    said = run(brought, *arguments, "--set", "bucket_step=8").stdout
    assert "as gallery: captions.lst beside 3 images" in said
    assert "too small for bars" in said
    info = json.loads((tmp_path / "out" / "dataset.json").read_text(encoding="utf-8"))
    assert info["format"] == "gallery"
    recorded = {key: info["settings"][key] for key in ("gallery_separator", "mean_colour_noun", "bars_min_side")}
    assert recorded == {"gallery_separator": ":", "mean_colour_noun": "blot", "bars_min_side": 64}
    rows = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    captions = [row["caption"] for row in rows if "caption" in row]
    assert captions[:2] == ["zero", "one"]
    assert captions[2].endswith(" blot")


def test_a_metric_that_a_package_brings_is_computed_with_its_settings_beside_ours(
    brought: Path, tmp_path: Path
) -> None:
    for number in range(3):
        save(Image.new("RGB", (32, 32), (51 * number,) * 3), tmp_path / "images" / f"{number}.png")
    given = ["--metrics", "brightness", "--brightness-offset", "0.5", "--json"]
    arguments = ["-m", "loraloom", "evaluate", str(tmp_path / "images"), "--out", str(tmp_path / "out"), *given]
    record = json.loads(run(brought, *arguments).stdout)
    (score,) = record["scores"]
    assert (score["metric"], score["count"]) == ("brightness", 3)
    assert abs(score["value"] - 0.7) < 1e-6
    assert record["settings"]["brightness_offset"] == 0.5
    help_text = run(brought, "-m", "loraloom", "evaluate", "--help").stdout
    assert "--brightness-offset" in help_text


def test_a_name_that_two_bring_is_an_error_that_names_both(brought: Path, tmp_path: Path) -> None:
    package(tmp_path, "other-maker", {"formats": {"gallery": "throw_away_gallery", "sidecar": "throw_away_gallery"}})
    path = os.pathsep.join([str(tmp_path), str(brought)])
    listing = "from loraloom import plugins\nfrom loraloom.utils.errors import UserError\n"
    listing += "try:\n    plugins.{}\nexcept UserError as error:\n    print(error)\n"
    said = run(Path(path), "-c", listing.format("load('formats', 'gallery')")).stdout
    assert "'gallery'" in said
    assert "throw-away 1.0 (throw_away_gallery)" in said
    assert "other-maker 1.0 (throw_away_gallery)" in said
    package(tmp_path / "alone", "third", {"formats": {"sidecar": "throw_away_gallery"}})
    said = run(tmp_path / "alone", "-c", listing.format("names('formats')")).stdout
    assert "loraloom itself and third 1.0 (throw_away_gallery)" in said


def test_one_setting_that_two_declare_is_an_error_that_names_both(brought: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        code = CAPTIONER.replace("mean_colour", name).replace(f"{name}_noun", "noun").replace("--mean-colour", "-")
        (tmp_path / f"captioner_{name}.py").write_text(code, encoding="utf-8")
    package(tmp_path, "makers", {"captioners": {"one": "captioner_one", "two": "captioner_two"}})
    said = run(tmp_path, "-m", "loraloom", "config", "prepare", code=2).stderr
    assert "the setting 'noun' has two declarations" in said
    assert "one (makers 1.0 (captioner_one)) and two (makers 1.0 (captioner_two))" in said


def test_one_that_cannot_be_loaded_is_told_with_its_package(tmp_path: Path) -> None:
    (tmp_path / "broken_captioner.py").write_text("import no_such_module_at_all\n", encoding="utf-8")
    (tmp_path / "empty_captioner.py").write_text("", encoding="utf-8")
    package(tmp_path, "broken", {"captioners": {"broken": "broken_captioner"}})
    said = run(tmp_path, "-m", "loraloom", "config", "prepare", code=2).stderr
    assert said.startswith("error: the captioners extension 'broken' cannot be loaded (ModuleNotFoundError")
    assert "broken 1.0 (broken_captioner)" in said
    assert "Traceback" not in said


def test_help_and_our_own_names_ask_no_installed_package(brought: Path) -> None:
    program = (
        "import sys\n"
        "from loraloom import plugins\n"
        "plugins.load('captioners', 'template')\n"
        "from typer.testing import CliRunner\n"
        "from loraloom.cli.app import app\n"
        "assert 'Verbs' in CliRunner().invoke(app, ['--help']).output\n"
        "assert not [name for name in sys.modules if name.startswith('throw_away')]\n"
        "assert plugins._entry_points.cache_info().currsize == 0\n"
    )
    run(brought, "-c", program)


def test_a_domain_gets_the_settings_that_its_dataset_or_adapter_recorded(brought: Path) -> None:
    """Training and generation would else read texts and images by other settings than `prepare` did."""
    program = (
        "from loraloom.config.domains import open_domain, recorded_options\n"
        "from loraloom.utils.errors import UserError\n"
        "recorded = {'size': 64, 'bars_min_side': 48}\n"
        "assert open_domain('bars', recorded).min_side == 48\n"
        "assert open_domain('bars', recorded_options('bars', recorded)).min_side == 48\n"
        "assert recorded_options('bars', recorded) == {'bars_min_side': 48}\n"
        "assert open_domain('bars', {}).min_side == 1\n"
        "assert recorded_options('freetext', recorded) == {}\n"
        "try:\n"
        "    open_domain('bars', {'bars_min_side': 'many'})\n"
        "except UserError as error:\n"
        "    assert 'bars_min_side' in str(error)\n"
        "else:\n"
        "    raise AssertionError\n"
    )
    run(brought, "-c", program)
