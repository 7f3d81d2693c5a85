"""The page that shows images and receipts can be sent to anyone and says what the receipts say."""

import re
from pathlib import Path

from PIL import Image

from loraloom.generate.report import Row, Shown, write_report
from loraloom.protocols.domain import Receipt, Unread, Verdict


def test_a_report_needs_no_other_file_runs_nothing_and_lists_every_verdict(tmp_path: Path) -> None:
    receipt = Receipt(
        verdicts=(
            Verdict(sentence="1 kitchen", section="count", met=True, reason="1 found"),
            Verdict(sentence="a < b", section="position", met=None, reason="no <b> there"),
        ),
        extras=("a door",),
        unread=Unread((("<study>", 2),), (("common room", "bedroom", 1),)),
    )
    image = Image.new("RGB", (8, 8), "red")
    rows = [Row("<script>alert(1)</script>", [Shown("true", image), Shown("drawn", image, receipt)])]
    write_report(tmp_path / "report.html", "A & B", [("met", "50 %")], rows, "a note")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!data:image/png;base64,)', page)
    assert "&lt;script&gt;" in page
    assert page.count("<figure>") == 2
    assert "1 of 2 sentences met" in page
    for text in (
        "1 kitchen",
        "a &lt; b",
        "no &lt;b&gt; there",
        "cannot tell",
        "not asked for: a door",
        "not understood: &#39;&lt;study&gt;&#39; (2 times)",
        "taken: &#39;common room&#39; as bedroom",
        "A &amp; B",
    ):
        assert text in page
