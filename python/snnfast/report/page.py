# SPDX-License-Identifier: Apache-2.0
"""How a page looks, and how it is put together: all text that comes from elsewhere is shown as text."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path

from snnfast import shares
from snnfast._version import __version__
from snnfast.checkpoint import atomic_write

PAGE = "index.html"
#: What it is, its value, and a note.
Card = tuple[str, str, str]
#: The head of a table, and its rows.
Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def percent(share: float) -> str:
    """A share near 1 with a digit more, and with as many as tell it from 1."""
    return shares.percent(share, 2 if share < 0.999 or share == 1 else 3)


def between(interval: tuple[float, float]) -> str:
    return f"95 %: {shares.between(interval)} %"


def significant(value: float) -> str:
    return f"{value:.3g}"


_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d1d1f; --soft: #5f6368; --card: #f4f6f8; --line: #dde1e6;
  --accent: #0072B2; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #161616; --ink: #e8e8e8; --soft: #a5a9ae; --card: #212325; --line: #383b3f; --accent: #56B4E9; }
  /* Light becomes dark and colours keep their hue: the pictures need not exist twice. */
  figure img { filter: invert(0.914) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1.05rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: clamp(1.5rem, 5vw, 2.2rem); line-height: 1.2; margin: .5rem 0 .8rem; text-wrap: balance; }
h2 { font-size: 1.35rem; margin: 2.8rem 0 .6rem; padding-top: 1rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .6rem 0; }
.lead { font-size: 1.15rem; color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(11.5rem, 1fr)); gap: .8rem; margin: 1.6rem 0;
  padding: 0; list-style: none; }
.cards li { background: var(--card); border-radius: .7rem; padding: .9rem 1rem; border-left: 4px solid var(--accent); }
.cards b { display: block; font-size: 1.75rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.cards span { font-weight: 600; }
.cards small { color: var(--soft); display: block; font-size: .88rem; line-height: 1.4; overflow-wrap: anywhere; }
figure { margin: 1.2rem 0; overflow-x: auto; }
figure img { display: block; width: 100%; min-width: 34rem; height: auto; border-radius: .4rem; }
.wide { overflow-x: auto; margin: 1rem 0; max-height: 34rem; overflow-y: auto; }
table { border-collapse: collapse; font-size: .95rem; font-variant-numeric: tabular-nums; min-width: 60%; }
th { text-align: left; font-weight: 600; color: var(--soft); position: sticky; top: 0; background: var(--paper); }
th, td { padding: .38rem .9rem .38rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th.n, td.n { text-align: right; white-space: nowrap; }
pre { background: var(--card); border-radius: .7rem; padding: 1rem; overflow-x: auto; font-size: .85rem;
  line-height: 1.45; white-space: pre-wrap; }
details { margin: 1rem 0; color: var(--soft); } summary { cursor: pointer; }
@media print { .wide { max-height: none; } }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--soft); font-size: .9rem; }
"""


@dataclasses.dataclass
class Page:
    """A page that grows from top to bottom. Whatever text it is given, it shows as text."""

    folder: Path
    title: str
    lead: str
    parts: list[str] = dataclasses.field(default_factory=list)

    def section(self, heading: str) -> None:
        self.parts.append(f"<h2>{escape(heading)}</h2>")

    def text(self, words: str) -> None:
        self.parts.append(f"<p>{escape(words)}</p>")

    def verbatim(self, words: str) -> None:
        self.parts.append(f"<pre>{escape(words)}</pre>")

    def cards(self, cards: Iterable[Card]) -> None:
        items = "".join(
            f"<li><span>{escape(name)}</span><b>{escape(value)}</b><small>{escape(note)}</small></li>\n"
            for name, value, note in cards
        )
        self.parts.append(f'<ul class="cards">\n{items}</ul>')

    def picture(self, name: str, what: str, draw: Callable[[Path], None]) -> None:
        """Draw a picture into the folder, and show it."""
        path = self.folder / name
        draw(path)
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        self.parts.append(
            f'<figure><img alt="{escape(what)}" loading="lazy" src="data:image/png;base64,{data}"></figure>'
        )

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Columns of numbers to the right."""
        right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(head))]

        def line(cells: Sequence[str], kind: str) -> str:
            marked = zip(cells, right, strict=True)
            return (
                "<tr>"
                + "".join(f"<{kind}{' class=n' if n else ''}>{escape(cell)}</{kind}>" for cell, n in marked)
                + "</tr>"
            )

        body = "\n".join(line(row, "td") for row in rows)
        self.parts.append(
            f'<div class="wide"><table><thead>{line(head, "th")}</thead>\n<tbody>\n{body}\n</tbody></table></div>'
        )

    def details(self, summary: str, lines: Iterable[str]) -> None:
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        self.parts.append(f"<details><summary>{escape(summary)}</summary><ul>{items}</ul></details>")

    def footer(self, command: str | None, states: str) -> None:
        words = f"<p>Measured on {escape(states)}.</p>"
        if command is not None:
            words += f"<p>Made by</p><pre>{escape(command)}</pre>"
        self.parts.append(f"<footer>{words}<p>snnfast {escape(__version__)}</p></footer>")

    def write(self) -> Path:
        """Put it together and write it."""
        # Nothing may be loaded or run, whatever the text of a policy or an environment says.
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        content = "\n".join(
            [
                "<!doctype html>",
                '<html lang="en"><head><meta charset="utf-8">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
                f"<title>{escape(self.title)}</title>",
                f"<style>{_STYLE}</style></head><body>",
                f"<h1>{escape(self.title)}</h1>",
                f'<p class="lead">{escape(self.lead)}</p>',
                *self.parts,
                "</body></html>",
            ]
        )
        path = self.folder / PAGE
        atomic_write(path, (content + "\n").encode())
        return path


def _is_number(text: str) -> bool:
    plain = text.replace(",", "").replace("%", "").replace(" to ", "").replace(".", "").replace("–", "0")
    return not plain or plain.strip().replace("e-", "").replace("e+", "").replace("-", "").isdigit()
