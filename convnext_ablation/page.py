"""Renders Jinja2 templates: self-contained HTML pages, or Markdown."""

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
    """Renders a template of ``templates/``.

    Args:
        template: File name.
        **context: Its variables. In HTML, all text is escaped unless it is `markupsafe.Markup`.

    Raises:
        jinja2.UndefinedError: The template uses a variable that the context lacks.
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
    """Encodes an RGB image as a JPEG data URI."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _sha256(text: str) -> str:
    """The base64 SHA-256 of a script, for a Content-Security-Policy."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
