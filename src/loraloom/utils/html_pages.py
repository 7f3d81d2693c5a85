"""Render self-contained HTML pages from jinja2 templates with every value escaped.

In: a template file beside the module that uses it, and values. Out: HTML text. Templates extend `page.html`, whose
content security policy allows no script and no network.
"""

import base64
from pathlib import Path


def render_page(template: Path, values: dict[str, object]) -> str:
    """The page as text; every value is shown as text, whatever it contains.

    Args:
        template: A file that extends `page.html`.
        values: What the template names. A missing one is an error.

    Returns:
        HTML that UTF-8 can hold: half a surrogate pair of a file name is shown as an escape.
    """
    import jinja2  # 0.1 s, and few commands make a page

    loader = jinja2.FileSystemLoader([template.parent, Path(__file__).parent])
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = environment.get_template(template.name).render(values)
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def data_uri(data: bytes, kind: str) -> str:
    """An image inside the page.

    Args:
        data: An encoded image.
        kind: Its MIME type, such as `image/png`.
    """
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
