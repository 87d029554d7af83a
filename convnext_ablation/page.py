"""Pages for people, by Jinja2: one file of HTML that needs nothing else, or Markdown."""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image

from convnext_ablation.console import markdown_text

__all__ = ["render", "uri_of"]

_QUALITY = 75


def render(template: str, **context: Any) -> str:
    """Fills in a template of ``templates/``.

    Args:
        template: Name of its file.
        **context: What it shows. In HTML, all text is escaped unless it is `markupsafe.Markup`.

    Raises:
        jinja2.UndefinedError: The template names what the context lacks.
    """
    environment = Environment(
        loader=PackageLoader("convnext_ablation"),
        autoescape=select_autoescape(default=True, disabled_extensions=("md",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["sha256"] = _sha256
    environment.filters["markdown"] = markdown_text
    return environment.get_template(template).render(**context)


def uri_of(picture: Image.Image) -> str:
    """A picture in RGB as a JPEG in a data URI."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _sha256(text: str) -> str:
    """The hash of a script as a Content-Security-Policy names it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
