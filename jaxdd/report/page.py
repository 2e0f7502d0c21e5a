"""The parts that a page of HTML is put together from; a page needs no other file and no network."""

import base64
import html
import json
from collections.abc import Mapping
from typing import Any

from jaxdd.io.files import plain


def render(title: str, body: str) -> str:
    """Return the page with a body of HTML, its title in plain text."""
    return _PAGE.format(title=text(title), body=body)


def section(title: str, content: str) -> str:
    """Return a section under its heading; nothing without content."""
    return f"<section><h2>{text(title)}</h2>{content}</section>" if content else ""


def table(values: Mapping[str, Any]) -> str:
    """Return a table of names and values; nothing without any."""
    rows = "".join(
        f"<tr><th>{text(key)}</th><td>{text(value if isinstance(value, str) else _json(value, None))}</td></tr>"
        for key, value in values.items()
    )
    return f'<table class="facts">{rows}</table>' if rows else ""


def folded(title: str, value: Any) -> str:
    """Return a value as JSON that unfolds at a click."""
    return f"<details><summary>{text(title)}</summary><pre>{text(_json(value, 2))}</pre></details>"


def _json(value: Any, indent: int | None) -> str:
    # A page is for reading: an object without a form in JSON must not cost the report of a long run.
    return json.dumps(plain(value), indent=indent, ensure_ascii=False, default=repr)


def figure(png: bytes, caption: str = "", kind: str = "plot", alt: str = "Images of the distilled set") -> str:
    """Return a picture that is part of the page, with its caption below."""
    data = base64.b64encode(png).decode()
    caption = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return f'<figure class="{kind}"><img alt="{text(alt)}" src="data:image/png;base64,{data}">{caption}</figure>'


def text(value: Any) -> str:
    """Return a value as text in which HTML has no meaning."""
    return html.escape(str(value))


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --text: #1d2126; --soft: #676d76; --line: #e2e5e9; --back: #fff; --code: #f5f6f8;
  --data: #4a8fe7; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --text: #e4e7eb; --soft: #9aa1ab; --line: #333941; --back: #16191d; --code: #1f2329; }} }}
body {{ max-width: 66rem; margin: 2.5rem auto; padding: 0 1.25rem; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.7rem; margin: 0; }}
h2 {{ font-size: 1.1rem; margin: 2.2rem 0 .6rem; }}
p, figcaption {{ color: var(--soft); margin: .5rem 0; }}
figcaption {{ font-size: .85rem; }}
p.facts {{ margin-top: .2rem; }}
table {{ border-collapse: collapse; }}
th, td {{ text-align: left; padding: .35rem 1.2rem .35rem 0; border-bottom: 1px solid var(--line); font-weight: 400; }}
thead th, table.facts th {{ color: var(--soft); }}
thead th {{ font-size: .85rem; }}
.number {{ font-variant-numeric: tabular-nums; white-space: nowrap; }}
.distilled th, .distilled .number {{ font-weight: 650; }}
.runs {{ color: var(--soft); font-size: .85rem; font-variant-numeric: tabular-nums; }}
.bar {{ width: 9rem; }}
.bar div {{ height: .6rem; background: var(--soft); opacity: .6; border-radius: 2px; }}
.distilled .bar div {{ background: var(--data); opacity: 1; }}
figure {{ margin: 0; }}
figure img {{ max-width: 100%; }}
.columns {{ display: flex; flex-wrap: wrap; gap: 0 4rem; }}
.plots {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: .8rem; }}
.plot img {{ width: 100%; }}
table.examples th, table.examples td {{ vertical-align: middle; }}
div.examples {{ display: flex; flex-wrap: wrap; gap: 4px; }}
div.examples figure {{ width: 4rem; text-align: center; }}
div.examples img {{ width: 40px; image-rendering: pixelated; border: 2px solid transparent; }}
div.examples .wrong img {{ border-color: #e0782f; }}
div.examples figcaption {{ font-size: .62rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }}
pre {{ background: var(--code); padding: .8rem 1rem; border-radius: 6px; overflow-x: auto;
  font: 13px/1.45 ui-monospace, monospace; }}
summary {{ cursor: pointer; margin: .4rem 0; }}
@media (max-width: 40rem) {{
  table {{ display: block; overflow-x: auto; }}
  th, td {{ padding-right: .7rem; }}
  .bar {{ width: 4rem; }} }}
@media print {{
  h2 {{ break-after: avoid; }}
  figure, tr, pre {{ break-inside: avoid; }} }}
</style>
<body>
{body}
</body>
</html>
"""
