"""Nothing that a file from elsewhere can hold ends in a traceback, a hang or a gigabyte.

The default run reads a sample of the cases here; `pytest -m hostile` reads all of them, each with 3 s of CPU time and 1 GB of
memory.
"""

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraloom.extensions.families._diffusers.limits import SCHEDULE, VAE, check_schedule, check_vae
from loraloom.extensions.families._ldm.limits import TEXT_ENCODER, UNET, check_text_encoder, check_unet
from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import parse_json

from .artefacts import artefacts, read_recipe
from .kinds import HARMS, VALUES, sample
from .limits import faults_of

MODEL_FREE = Path("no model is built for these")
NAMES = [artefact.name for artefact in artefacts(MODEL_FREE)]
SAMPLE, SAMPLE_OF_MODELS = 12, 4


def test_at_least_three_hundred_kinds_of_files_are_tried() -> None:
    cases = [case for artefact in artefacts(MODEL_FREE) for case in artefact.cases()]
    assert len(cases) == len(set(map(str, cases))) >= 5000
    kinds = {
        (case.artefact.name, case.field[-1:], case.harm) for case in cases if case.harm in HARMS or case.harm in VALUES
    }
    assert len(kinds) >= 300
    assert len(NAMES) >= 25


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_of_harmed_files_is_refused_in_words_or_can_be_used(
    name: str, tiny_model: Path, tmp_path: Path
) -> None:
    (artefact,) = (one for one in artefacts(tiny_model) if one.name == name)
    of_model = "/" in name or name in {"model_index.json", "shard index"}
    for number, case in enumerate(sample(artefact, SAMPLE_OF_MODELS if of_model else SAMPLE)):
        try:
            case.run(tmp_path / str(number))
        except BaseException as error:
            raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error


@pytest.mark.hostile
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="counts address space as Linux does, and forks")
@pytest.mark.parametrize("name", NAMES)
def test_every_harmed_file_is_refused_within_three_seconds_and_a_gigabyte(
    name: str, tiny_model: Path, tmp_path: Path
) -> None:
    (artefact,) = (one for one in artefacts(tiny_model) if one.name == name)
    artefact.build(tmp_path / "good")
    artefact.read(tmp_path / "good")  # imports everything once, and shows that a good one is read
    faults = faults_of(artefact.cases(), tmp_path / "cases")
    assert not faults, f"{len(faults)} cases:\n" + "\n".join(faults)


# -------------------------------------------------------------------------------------------------- made-up JSON

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(sorted(VALUES)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
"""Values of JSON and a little beyond: NaN, infinity and halves of surrogate pairs are among them."""


@given(text=st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_any_text_is_json_or_a_user_error(text: str) -> None:
    try:
        parse_json(text, "a file")
    except UserError as error:
        assert str(error).startswith("a file")


@settings(max_examples=60)
@given(
    changes=st.dictionaries(
        st.sampled_from(["width", "height", "num_steps", "seed", "model", "adapters", "told", "words"]), JSON
    )
)
def test_a_recipe_with_any_values_is_read_or_a_user_error(
    changes: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    import json

    from .artefacts import RECIPE

    folder = tmp_path_factory.mktemp("recipe")
    (folder / "prompts.jsonl").write_text(json.dumps({**RECIPE, **changes}), encoding="utf-8")
    try:
        read_recipe("prompts.jsonl", folder)
    except UserError as error:
        str(error).encode()


@settings(max_examples=60)
@given(data=st.data())
def test_a_config_of_any_values_is_in_its_limits_or_a_user_error(data: st.DataObject) -> None:
    """Nothing is built here: the check itself must not fail, whatever stands in a field."""
    checks = [(check_unet, UNET), (check_vae, VAE), (check_text_encoder, TEXT_ENCODER), (check_schedule, SCHEDULE)]
    check, rules = data.draw(st.sampled_from(checks))
    config = data.draw(st.dictionaries(st.sampled_from(sorted(rules)), JSON, max_size=6))
    try:
        check(config)
    except UserError as error:
        assert ".json" in str(error)
