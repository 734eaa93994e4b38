# SPDX-License-Identifier: Apache-2.0
"""The page of a sweep: many conversions of one policy side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from snnfast import plots
from snnfast.conversion import ABOUT
from snnfast.conversion.comparison import Comparison
from snnfast.report.page import Card, Page, Table, between, percent, significant
from snnfast.shares import between as interval_in_percent
from snnfast.shares import in_percent
from snnfast.sweep import SweepResult, SweepRow

#: Similarities that the page names the cheapest network for.
TARGETS = (0.99, 0.995, 0.999, 0.9995)
#: How to read the pictures.
SCALES = (
    "Between 99 and 99.9 % lie ten times as few wrong decisions: the upper scale shows that, the lower one does not. "
    "An empty mark: no decision differed; on the upper scale, which has no 100 %, it stands at half a decision of all."
)


def write_sweep_report(
    result: SweepResult, folder: str | os.PathLike[str], *, command: str | None = None, held_out: str | None = None
) -> Path:
    """Write the page of a sweep, ``index.html``, and its pictures.

    Args:
        result: of :func:`snnfast.sweep`.
        folder: where to write; it is made if it is not there.
        command: the command line that has made this, to repeat it.
        held_out: where the held-out states come from, in words.

    Returns:
        The page.

    Raises:
        ImportError: if matplotlib is not installed.
        OSError: if a file cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sizes = "-".join(map(str, result.sizes))
    best = max(result.rows, key=lambda row: row.similarity)
    methods = list(dict.fromkeys(row.method for row in result.rows))
    page = Page(
        folder,
        f"{result.env_id or 'The policy'} in spikes: {len(result.rows)} conversions compared",
        f"A {sizes} ReLU policy became a spiking network in {len(result.rows)} ways, by {len(methods)} methods. "
        f"Each was asked about {best.states:,} states that it was not made from: does it decide like the original?",
    )
    page.cards(_sweep_cards(result))
    page.section("The cheapest that is good enough")
    page.table(*_targets(result))
    page.section("How alike, at what cost")
    main = main_percentile(result)
    page.text(f"Every line is a method, every mark a number of steps. {SCALES} Activation scales are {main}.")
    sweep_pictures(page, result, main)
    if len({row.percentile for row in result.rows}) > 1:
        page.section("The percentile of the activation scales")
        page.text(
            "A high percentile leaves room for rare activations; a low one spreads the usual ones over more levels, "
            "and cuts off what is rare."
        )
        page.picture(
            "percentiles.png",
            "Similarity against steps, a panel per method, a line per percentile",
            lambda path: plots.percentile_plot(result.rows, path),
        )
    page.section("What the methods are")
    about = {m: ABOUT[m] if result.weight_grid is None else ABOUT[m].on_grid() for m in methods}
    if result.weight_grid is not None:
        page.text(f"Here all of them have weights that were rounded to {result.weight_grid} bits first.")
    page.table(
        ("method", "what it is", "hardware", "equals, as quantisation, at its usual T"),
        [(m, about[m].what, about[m].hardware, about[m].equals) for m in methods],
    )
    page.section("Every row")
    page.table(*_rows(result.rows))
    if result.skipped:
        page.details(
            f"{len(result.skipped)} combinations do not exist",
            [str(skipped) for skipped in result.skipped],
        )
    states = f"{best.states:,} held-out states"
    page.footer(command, f"{states}, {held_out}" if held_out else states)
    return page.write()


def main_percentile(result: SweepResult) -> str:
    """In words, at which percentile the pictures are."""
    percentiles = sorted({row.percentile for row in result.rows})
    if len(percentiles) == 1:
        return f"at percentile {percentiles[0]:g}"
    return f"at percentile {min(percentiles, key=lambda p: abs(p - 99.9)):g}, where a method has it"


def _main_rows(result: SweepResult) -> list[SweepRow]:
    """Of each method the rows of the percentile that is nearest to the usual one."""
    nearest = {
        method: min({row.percentile for row in result.rows if row.method == method}, key=lambda p: abs(p - 99.9))
        for method in dict.fromkeys(row.method for row in result.rows)
    }
    return [row for row in result.rows if row.percentile == nearest[row.method]]


def sweep_pictures(page: Page, result: SweepResult, main: str, *, here: Comparison | None = None) -> None:
    """Similarity against steps, and against spikes; ``here`` is the network that the page is about."""
    rows = _main_rows(result)
    page.picture(
        "similarity-steps.png",
        f"Similarity against mean steps for every method, {main}",
        lambda path: plots.sweep_plot(rows, path, against="steps", here=here),
    )
    page.picture(
        "similarity-spikes.png",
        f"Similarity against spikes for every method, {main}",
        lambda path: plots.sweep_plot(rows, path, against="spikes", here=here),
    )


def _sweep_cards(result: SweepResult) -> list[Card]:
    best = max(result.rows, key=lambda row: (row.similarity, -row.mean_steps))
    cards = [("Most alike", percent(best.similarity), f"{_name(best)}; {between(best.similarity_interval)}")]
    for target in (0.999, 0.99):
        quick, sparing = result.cheapest(target), result.cheapest(target, "spikes")
        if quick is not None and sparing is not None:
            cards.append((f"Fewest steps for {100 * target:g} %", f"{quick.mean_steps:.1f}", _name(quick)))
            cards.append(
                (f"Fewest spikes for {100 * target:g} %", f"{sparing.spikes_per_decision:.0f}", _name(sparing))
            )
            break
    played = [row for row in result.rows if row.on_policy is not None]
    if played:
        returns = [row.on_policy.mean_return for row in played if row.on_policy is not None]
        cards.append(("Returns", f"{min(returns):,.1f} to {max(returns):,.1f}", "worst and best network, playing"))
    apart = [abs(row.predicted - row.similarity) for row in result.rows if row.predicted is not None]
    if apart:
        cards.append(("Prediction", f"{100 * max(apart):.2f} points", "furthest from the measured similarity"))
    return cards


def _name(row: SweepRow) -> str:
    return f"{row.method}, T={row.timesteps}, percentile {row.percentile:g}"


def _targets(result: SweepResult) -> Table:
    head = ("similarity of at least", "fewest steps", "by", "fewest spikes", "by")
    rows: list[tuple[str, ...]] = []
    for target in TARGETS:
        quick, sparing = result.cheapest(target), result.cheapest(target, "spikes")
        if quick is None or sparing is None:
            rows.append((f"{100 * target:g} %", "–", "none of these", "–", "none of these"))
        else:
            rows.append(
                (
                    f"{100 * target:g} %",
                    f"{quick.mean_steps:.2f}",
                    _name(quick),
                    f"{sparing.spikes_per_decision:.1f}",
                    _name(sparing),
                )
            )
    return head, rows


def _rows(rows: Sequence[SweepRow]) -> Table:
    predicted = any(row.predicted is not None for row in rows)
    played = any(row.on_policy is not None for row in rows)
    head = ["method", "T", "percentile", "similarity / %", "95 % interval"]
    head += ["predicted / %"] * predicted + ["mean steps", "spikes", "output error, median"]
    head += ["similarity playing / %", "return"] * played
    body: list[tuple[str, ...]] = []
    for row in rows:
        cells = [row.method, f"{row.timesteps}", f"{row.percentile:g}", in_percent(row.similarity, 3)]
        cells.append(interval_in_percent(row.similarity_interval))
        if predicted:
            cells.append("" if row.predicted is None else in_percent(row.predicted, 3))
        cells += [f"{row.mean_steps:.2f}", f"{row.spikes_per_decision:.1f}", significant(row.output_error[0])]
        if played:
            found = row.on_policy
            alike = None if found is None else found.similarity
            cells += [
                "" if alike is None else in_percent(alike, 3),
                "" if found is None else f"{found.mean_return:.1f}",
            ]
        body.append(tuple(cells))
    return tuple(head), body
