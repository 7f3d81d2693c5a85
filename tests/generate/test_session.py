"""A session names its adapters, and says where they were trained in different ways."""

from pathlib import Path

import pytest
import torch

from loraloom.generate.recipes import append_rows, read_rows, request_of, weight_text
from loraloom.lora.blend import Term
from loraloom.utils.errors import UserError

from .conftest import MakeAdapter, OpenSession
from .test_foreign_adapters import loha, pixels

OTHER = {"prompt_method": "truncate", "domain": "scenes", "size": "64x48"}


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("prompt_method", "prompt method: cat with 'truncate', dog with 'attention', which is used; --prompt-method"),
        ("domain", "domain: cat with 'scenes', dog with 'freetext', which is used; --domain"),
        ("size", "image size: cat with '64x48', dog with '32x32', which is used; --width and --height"),
    ],
)
def test_adapters_that_were_trained_in_different_ways_are_named_in_one_line_and_strict_refuses_them(
    session_of: OpenSession, adapter: Path, make_adapter: MakeAdapter, tmp_path: Path, field: str, line: str
) -> None:
    """The first one's was used without a word."""
    cat = make_adapter(tmp_path / "cat", **{field: OTHER[field]})
    free = {"width": None, "height": None}
    said: list[str] = []
    session = session_of([(adapter, 1.0), (cat, 1.0)], say=said.append, **free)
    assert said == [f"note: 1 of 2 adapters was trained with another {line} overrides it"]
    assert (session.encoder.method, session.encoder.domain.name, session.size) == ("attention", "freetext", (32, 32))
    with pytest.raises(UserError, match=rf"(?s)--strict is on.*{line}"):
        session_of([(adapter, 1.0), (cat, 1.0)], strict=True, **free)
    said.clear()
    session_of([(adapter, 1.0), (adapter, 0.5)], say=said.append, **free)
    assert said == []


def test_where_several_differ_the_others_are_counted(
    session_of: OpenSession, adapter: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    others = [(make_adapter(tmp_path / f"cat{n}", prompt_method="max"), 1.0) for n in range(2)]
    said: list[str] = []
    session_of([(adapter, 1.0), *others], say=said.append)
    (line,) = said
    assert line.startswith(
        "note: 2 of 3 adapters were trained with another prompt method: cat0 with 'max' (and 1 more)"
    )


def test_one_domain_with_other_settings_is_a_difference_too_and_a_recorded_text_is_shown_escaped(
    session_of: OpenSession, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    files = [
        (make_adapter(tmp_path / name, domain_settings={"note": text}), 1.0)
        for name, text in (("dog", "a"), ("cat", "\x1b[31m"))
    ]
    said: list[str] = []
    session_of(files, say=said.append)
    (line,) = said
    assert "another set of domain settings" in line
    assert "cat with {'note': '\\x1b[31m'}, dog with {'note': 'a'}, which is used" in line


def test_what_the_user_chose_is_used_without_a_line(
    session_of: OpenSession, adapter: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    cat = make_adapter(tmp_path / "cat", **OTHER)
    said: list[str] = []
    session = session_of(
        [(adapter, 1.0), (cat, 1.0)], say=said.append, method="smart", domain="freetext", width=48, height=None
    )
    assert said == []
    assert (session.encoder.method, session.encoder.domain.name, session.size) == ("smart", "freetext", (48, 48))


def test_what_the_first_adapter_does_not_state_is_taken_from_the_next(
    session_of: OpenSession, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    files = [loha(tmp_path / "x.safetensors"), make_adapter(tmp_path / "cat", **OTHER)]
    said: list[str] = []
    session = session_of([(file, 1.0) for file in files], say=said.append, width=None, height=None)
    assert said == []
    assert (session.encoder.method, session.encoder.domain.name, session.size) == ("truncate", "scenes", (64, 48))


def test_adapters_have_the_names_of_their_runs_and_files_with_a_number_where_two_are_alike(
    session_of: OpenSession, adapter: Path, tmp_path: Path
) -> None:
    session = session_of([(adapter, 1.0), (loha(tmp_path / "x.safetensors"), 0.5), (adapter, 0.25)])
    assert session.adapters.scales == {"dog": 1.0, "x": 0.5, "dog-2": 0.25}
    assert session.files["dog"].path == session.files["dog-2"].path == adapter / "adapter.safetensors"


def test_scales_by_block_are_in_the_recipe_and_its_row_is_read_again(
    session_of: OpenSession, adapter: Path, tmp_path: Path
) -> None:
    scale = {"down_blocks": 0.5, "denoiser": 0.0}
    session = session_of([(adapter, scale)])
    request = session.requests(["a plan"])[0]
    (row,) = read_rows(append_rows(tmp_path, [{"file": "a.png", **session.recipe(request).as_row()}]))
    assert request_of(row) == request
    (recorded,) = row["adapters"]
    again = session_of([(Path(recorded["path"]), recorded["weight"])])
    assert recorded["weight"] == scale
    assert pixels(again) == pixels(session) != pixels(session_of([(adapter, 1.0)]))
    assert weight_text(scale) == "down_blocks=0.5 denoiser=0"
    recorded["weight"]["denoiser"] = 101
    with pytest.raises(UserError, match="expected a number from -100 to 100, or such numbers by part and block"):
        request_of(row)


def test_an_adapter_loaded_in_the_place_of_another_reads_prompts_with_its_own_text_encoder(
    session_of: OpenSession, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    """Embeddings were kept by the scales of the adapters alone: a second adapter of the same scale, loaded under the name of
    an unloaded one, got the embeddings of the first."""
    first, second = (make_adapter(tmp_path / name, seed, text_encoder=True) for seed, name in enumerate(("dog", "cat")))
    session = session_of([(first, 1.0)])
    before = session.encode(["a house"])
    session.unload("dog")
    session.load(second, Term(name="dog"))
    session.adapters.set_scales({"dog": 1.0})
    swapped = session.encode(["a house"])
    alone = session_of([(second, 1.0)]).encode(["a house"])
    for name, tensor in alone[0].items():
        assert torch.equal(swapped[0][name], tensor)
    assert any(not torch.equal(before[0][name], tensor) for name, tensor in alone[0].items())
