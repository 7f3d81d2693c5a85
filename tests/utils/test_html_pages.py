"""Pages show what they are given as text: no value of a user's becomes markup or template code."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom.data.manifest import Manifest
from loraloom.prepare.report import Problem, write_report
from loraloom.protocols.data import Example
from loraloom.utils.html_pages import render_page

HOSTILE = [
    "<script>alert(1)</script>",
    "\" onerror='x'",
    "{{7*7}}",
    "{% include '/etc/passwd' %}",
    "]]><!--",
    "&lt;b&gt;",
    "강아지 🐶",
    "half \udc80",
]


class Page(HTMLParser):
    """Tags, attribute values and texts of a page, as a browser reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.values: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.values += [value for _, value in attrs if value is not None]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.values.append(data)


def template(folder: Path) -> Path:
    file = folder / "one.html"
    file.write_text('{% extends "page.html" %}{% block body %}<p title="{{ value }}">{{ value }}</p>{% endblock %}')
    return file


@given(value=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1) | st.sampled_from(HOSTILE[:-1]))
def test_any_value_is_shown_as_it_is(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    page = Page(render_page(template(tmp_path_factory.getbasetemp()), {"title": value, "value": value}))
    assert page.tags == {"html", "head", "meta", "title", "style", "body", "p"}
    assert page.values.count(value) == 3  # title, attribute, text


def test_a_missing_value_is_an_error_and_not_a_hole(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="'value' is undefined"):
        render_page(template(tmp_path), {"title": "x"})


def test_names_and_captions_of_a_dataset_are_text_on_its_page(tmp_path: Path) -> None:
    examples = tuple(
        Example(
            id=text,
            image="a.png",
            caption=text,
            caption_found=text,
            split="train",
            width=8,
            height=8,
            sha256="0" * 64,
            source_sha256="0" * 64,
            source_width=8,
            source_height=8,
            crop=(0, 0, 8, 8),
            scale=1.0,
            num_tokens=None,
        )
        for text in HOSTILE
    )
    info = {"source": HOSTILE[0], "format": HOSTILE[1], "created": HOSTILE[2]}
    manifest = Manifest(folder=tmp_path, examples=examples, info=info)
    problems = [Problem(text, text) for text in HOSTILE]
    thumbnails = dict.fromkeys(HOSTILE, b"jpeg")
    write_report(tmp_path / "report.html", manifest, problems, problems, [HOSTILE], thumbnails, HOSTILE)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not page.tags & {"script", "b onerror", "object", "iframe"}
    for text in HOSTILE[:-1]:
        # Both tables have a name and a reason, the gallery a name twice and a caption, the lines above the tables one.
        assert page.values.count(text) >= 8, text
    assert "49" not in page.values
    assert page.values.count("half \\udc80") >= 8
