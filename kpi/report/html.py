"""HTML as text: everything that is not written here is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from kpi.text import printable

_LONGEST_CELL = 300

STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f8fafc; color: #1e293b;
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 6px; }
p { margin: 4px 0 10px; } .quiet { color: #64748b; } code { font-size: 13px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(122px, 1fr));
         gap: 12px; margin: 20px 0; }
.card { background: #fff; border: 1px solid #e2e8f0; border-radius: 10px; padding: 12px 14px; }
.card b { display: block; font-size: 20px; font-weight: 600; overflow-wrap: anywhere; }
.card span { color: #64748b; font-size: 13px; }
.bad { border-color: #fca5a5; background: #fef2f2; }
figure { margin: 8px 0 0; background: #fff; border: 1px solid #e2e8f0; border-radius: 10px;
         padding: 12px; }
figure img { width: 100%; display: block; }
figcaption { color: #64748b; font-size: 13px; padding: 8px 6px 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; background: #fff; font-size: 14px; }
th, td { text-align: left; padding: 5px 10px; border-bottom: 1px solid #e2e8f0;
         vertical-align: top; overflow-wrap: anywhere; }
th { color: #64748b; font-weight: 500; white-space: nowrap; }
td:first-child { min-width: 100px; }
td.n, th.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
ul { margin: 0; padding-left: 18px; }
"""


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure of the page."""

    title: str
    caption: str
    """What it shows, and how to read it."""
    uri: str
    """The picture itself, as a `data:` URI."""


_END = "\n</main></body></html>\n"


def text(value: object) -> str:
    """`value` as harmless text."""
    return escape(printable(str(value), _LONGEST_CELL))


def card(value: object, label: str, *, bad: bool = False) -> str:
    kind = "card bad" if bad else "card"
    return f'<div class="{kind}"><b>{text(value)}</b><span>{text(label)}</span></div>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Numbers, given as float, int or None, stand on the right; a tuple becomes a list. A `head`
    of empty names is left out."""
    lines = [list(row) for row in rows]
    right = [
        bool(lines) and all(isinstance(row[n], float | int | None) for row in lines)
        for n in range(len(head))
    ]
    cells = "".join(_cell("th", name, side) for name, side in zip(head, right, strict=True))
    top = f"<tr>{cells}</tr>" if any(head) else ""
    body = "".join(
        "<tr>"
        + "".join(_cell("td", value, side) for value, side in zip(row, right, strict=True))
        + "</tr>"
        for row in lines
    )
    return f'<div class="wide"><table>{top}{body}</table></div>'


def _cell(tag: str, value: object, right: bool) -> str:
    if isinstance(value, tuple):
        shown = "<ul>" + "".join(f"<li>{text(item)}</li>" for item in value) + "</ul>"
    elif isinstance(value, float):
        shown = number(value)
    else:
        shown = "–" if value is None else text(value)
    return f"<{tag}{' class=n' if right else ''}>{shown}</{tag}>"


def number(value: float | None) -> str:
    """Four digits that matter, never more than three behind the point."""
    if value is None or value != value:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def figure(picture: Picture) -> str:
    title = text(picture.title)
    return (
        f'<h2>{title}</h2><figure><img alt="{title}" src="{picture.uri}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def document(title: str, body: Iterable[str]) -> str:
    """A whole page; its policy lets it load nothing and run nothing."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{text(title)}</title>'
        f"<style>{STYLE}</style></head><body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )
