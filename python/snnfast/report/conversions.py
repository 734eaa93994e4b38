# SPDX-License-Identifier: Apache-2.0
"""The page of one conversion: what it is, how it decides, and what one decision looks like."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from snnfast import plots
from snnfast.conversion import ABOUT, PRESETS
from snnfast.conversion.comparison import Answers, Comparison, HeldOut, check_replay
from snnfast.conversion.diagnosis import Diagnosis
from snnfast.conversion.prediction import SimilarityPrediction
from snnfast.conversion.settings import in_use
from snnfast.evaluation import EvaluationReport
from snnfast.learning import Replay
from snnfast.network import SpikingNetwork
from snnfast.report.page import Card, Page, Table, between, percent, significant
from snnfast.report.sweeps import SCALES, main_percentile, sweep_pictures
from snnfast.shares import rough_percent
from snnfast.spec import DigitsCode
from snnfast.sweep import SweepResult


def write_report(
    network: SpikingNetwork,
    policy: nn.Module,
    held_out: Replay,
    folder: str | os.PathLike[str],
    *,
    evaluation: EvaluationReport | None = None,
    original: EvaluationReport | None = None,
    sweep: SweepResult | None = None,
    prediction: SimilarityPrediction | None = None,
    diagnosis: Diagnosis | None = None,
    actions: Sequence[str] | None = None,
    command: str | None = None,
    seed: int = 1,
) -> Path:
    """Write the page of one conversion, ``index.html``, and its pictures.

    Args:
        network: a converted network.
        policy: what it was converted from.
        held_out: states that it was not made from; the decisions on them are compared.
        folder: where to write; it is made if it is not there.
        evaluation: of the network, playing, compared with the policy.
        original: of the policy itself, from the same start states.
        sweep: other methods and numbers of steps beside it.
        prediction: from :func:`snnfast.predict_similarity`; beside what was measured while playing, and as text.
        diagnosis: from :func:`snnfast.diagnose`: what limits the network, layer by layer; shown as text.
        actions: names of the actions.
        command: the command line that has made this, to repeat it.
        seed: of intervals.

    Returns:
        The page.

    Raises:
        TypeError: if ``held_out`` is no replay.
        ValueError: if ``actions`` has another length than the network's output.
        ImportError: if matplotlib is not installed.
        OSError: if a file cannot be written.
    """
    check_replay("held_out", held_out)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    answers = HeldOut(policy, held_out, seed).ask(network)
    counted = answers.comparison()
    about = network.conversion
    preset = str(about.get("preset", "a conversion"))
    env_id = held_out.metadata.get("env_id") or "the policy"
    page = Page(folder, f"{env_id} in spikes: {preset}", _made_of(network, preset))
    page.cards(_conversion_cards(counted, answers, evaluation, original, prediction))
    page.text(_verdict(counted, network))
    if sweep is not None:
        page.section("How alike, at what cost")
        page.text(
            "Every line is a method, every mark a conversion of the same policy with another number of steps. " + SCALES
        )
        sweep_pictures(page, sweep, main_percentile(sweep), here=counted)
    _one_decision(page, network, held_out, answers, actions)
    if network.spec.early_exit is not None:
        page.section("Early exit")
        page.picture(
            "steps.png",
            "After how many steps decisions stop",
            lambda path: plots.steps_histogram(
                answers.steps, path, certified=answers.certified, most=network.spec.total_steps
            ),
        )
        page.text(_exit_words(network, counted))
    if network.spec.n_out > 1:
        page.section("Outputs in the policy's own units")
        page.text(
            "The spiking network estimates the policy's outputs (logits or Q-values), not only its choice. A decision "
            "can change only where the error of the lead is larger than the lead."
        )
        page.picture(
            "errors.png",
            "Errors of the outputs, and the lead of the best action beside its error",
            lambda path: plots.output_errors(answers.held_out.outputs, answers.outputs, path, outputs=actions),
        )
        page.table(*_error_table(answers, actions))
    for heading, thing in (("What was predicted", prediction), ("Layer by layer", diagnosis)):
        if thing is not None:
            page.section(heading)
            page.verbatim(str(thing))
    page.section("How it was made")
    page.table(("setting", "value"), _settings(network))
    page.footer(command, f"{counted.states:,} held-out states, {_where(held_out)}")
    return page.write()


def _conversion_cards(
    counted: Comparison,
    answers: Answers,
    evaluation: EvaluationReport | None,
    original: EvaluationReport | None,
    prediction: SimilarityPrediction | None,
) -> list[Card]:
    note = f"on {counted.states:,} held-out states; {between(counted.similarity_interval)}"
    cards = [("Similarity", percent(counted.similarity), note)]
    if prediction is not None:
        note = f"while it plays, before it has played; {between(prediction.interval)}"
        cards.append(("Similarity, predicted", percent(prediction.similarity), note))
    if evaluation is not None and evaluation.similarity is not None and evaluation.similarity_interval is not None:
        note = f"over {evaluation.decisions:,} decisions while it plays; {between(evaluation.similarity_interval)}"
        if prediction is not None:
            note += f"; {100 * abs(prediction.similarity - evaluation.similarity):.2f} points from the predicted one"
        cards.append(("Similarity, playing", percent(evaluation.similarity), note))
    fixed = counted.mean_steps == counted.most_steps
    cards.append(
        (
            "Steps",
            f"{counted.mean_steps:.0f}" if fixed else f"{counted.mean_steps:.2f}",
            "for every decision, all layers together" if fixed else f"on average; at most {counted.most_steps}",
        )
    )
    layers = " + ".join(f"{x:,.1f}" for x in answers.spikes_per_layer)
    cards.append(("Spikes", f"{counted.spikes_per_decision:,.1f}", f"per decision; by layer {layers}"))
    if counted.certified is not None:
        cards.append(("Certified", percent(counted.certified), "of the decisions: nothing to come could change them"))
    if evaluation is not None:
        one = evaluation.episodes == 1  # which says nothing about others
        spread = "one episode" if one else f"sd {evaluation.std_return:.1f} over {evaluation.episodes} episodes"
        spread += f" of at most {evaluation.max_steps:,} steps"
        if original is not None:
            spread += f"; the original {original.mean_return:,.1f}"
        cards.append(("Return", f"{evaluation.mean_return:,.1f}", spread))
    half, _, nearly, _ = counted.output_error
    cards.append(
        ("Output error", significant(half), f"half of the states are closer, 99 % closer than {significant(nearly)}")
    )
    return cards


def _verdict(counted: Comparison, network: SpikingNetwork) -> str:
    differ = round((1 - counted.similarity) * counted.states)
    if differ == 0:
        least = 1 - counted.similarity_interval[0]
        first = (
            f"None of {counted.states:,} decisions on states that the conversion has not seen differs from the "
            f"original's: fewer than 1 in {max(1, int(1 / least)):,} do, with 95 % certainty."
        )
    else:
        first = (
            f"{differ:,} of {counted.states:,} decisions on states that the conversion has not seen "
            f"differ{'s'[: differ == 1]} from the original's: 1 in {counted.states / differ:,.0f}."
        )
    if counted.saturated:
        first += (
            f" In {rough_percent(counted.saturated, 2)} of the states a neuron was driven beyond the range that it has "
            "from the replay; headroom widens it."
        )
    return first


def _exit_words(network: SpikingNetwork, counted: Comparison) -> str:
    leave = network.spec.early_exit
    assert leave is not None
    saved = 1 - counted.mean_steps / network.spec.total_steps
    # Rounded down, because 255 of 256 steps are not all of them; but 1 - 0.7, a little below 0.3 in floats, is 0.3.
    share = math.floor(round(1000 * saved, 6)) / 10
    words = f"Stopping early saves {share:g} % of the {network.spec.total_steps} steps. "
    if leave.kind == "calibrated":
        return words + (
            "A decision stops once its lead is larger than any wrong one had on the replay, with a factor of safety: "
            "measured, not proven."
        )
    if isinstance(network.spec.code, DigitsCode):
        return words + (
            f"A certified decision is {_certified(network)}, whatever digits may still come. Where a neuron may leave "
            "its range nothing is certified, and the decision runs on, to its last step if need be."
        )
    return words + "A certified decision is that of all bits: whatever bits come, it cannot change."


def _made_of(network: SpikingNetwork, preset: str) -> str:
    sizes = "-".join(map(str, network.sizes))
    about = ABOUT.get(preset)
    first = f"A {sizes} ReLU policy became a network of spiking neurons by the method “{preset}”"
    if about is None:
        return first + "."
    if network.conversion.get("weight_grid"):
        about = about.on_grid()
    usual = PRESETS[preset].timesteps
    settings = network.conversion.get("settings")
    other = isinstance(settings, dict) and settings.get("timesteps") != usual  # what is said of levels is of the usual
    steps = f" at its usual T={usual}" if other and PRESETS[preset].spike_error is None else ""
    return f"{first}: {about.what}. Hardware: {about.hardware}. As quantisation{steps}: {about.equals}."


def _certified(network: SpikingNetwork) -> str:
    """Whose decisions digits certify: a grid makes the weights another network's before anything is certified."""
    return "the rounded network's" if network.conversion.get("weight_grid") else "the original network's"


def _one_decision(
    page: Page, network: SpikingNetwork, held_out: Replay, answers: Answers, actions: Sequence[str] | None
) -> None:
    """A fairly close call, because a clear one is decided at once and shows nothing."""
    outputs = np.sort(answers.held_out.outputs, axis=1)
    lead = outputs[:, -1] - outputs[:, -2] if outputs.shape[1] > 1 else np.zeros(len(outputs))
    # By steps, where decisions differ in those, then by lead: three quarters up.
    chosen = int(np.lexsort((-lead, answers.steps))[round(0.75 * (len(lead) - 1))])
    done = network.simulate(
        held_out.observations[chosen : chosen + 1].to(network.device), record=("spikes", "potentials")
    )
    turns = network.spec.is_staged
    close = ", a fairly close call" if lead.any() else ""  # one output has no lead
    page.section("One decision")
    page.text(
        f"Held-out state {chosen + 1:,}{close}: what every neuron did, step by step. "
        + ("Layers take turns; the grey field is a layer's own. " if turns else "")
        + "Below, the output neurons add up what they receive; "
        + (
            "the largest one decides."
            if network.spec.decoding == "potential"
            else "the largest on average over the steps decides."
        )
    )
    if network.spec.spiking_layers:
        page.picture(
            "raster.png",
            "Spikes of every layer over time, and the output neurons' potentials",
            lambda path: plots.raster(done, path, outputs=actions, turns=turns),
        )
    if len(network.sizes) > 2:
        digits = isinstance(network.spec.code, DigitsCode)
        copies = getattr(network.spec.code, "copies", 1)
        label, unit = "membrane potential / thresholds", network.neuron.threshold
        if digits:
            label = "still to send / range"
            words = (
                "What a neuron has still to send, as a share of its range: it begins with everything, and every digit "
                "takes the largest part of what is left."
            )
        elif copies > 1:
            label, unit = f"potential of the lowest copy / (threshold / {copies})", unit / copies
            words = (
                f"The membrane potentials of the hidden neurons, of each the lowest of its {copies} copies: charging, "
                f"and falling by 1/{copies} of the threshold for every copy that fires. The others' lie as far above "
                "one another."
            )
        else:
            words = "The membrane potentials of the hidden neurons: charging, firing at 1, and keeping what is left."
        page.text(words)
        page.picture(
            "potentials.png",
            "What the hidden neurons have still to send, over time"
            if digits
            else "Membrane potentials of the hidden neurons over time",
            lambda path: plots.potential_map(done, path, turns=turns, label=label, unit=unit),
        )


def _error_table(answers: Answers, actions: Sequence[str] | None) -> Table:
    error = np.abs(answers.outputs - answers.held_out.outputs)
    n_out = error.shape[1]
    names = [f"action {i}" for i in range(n_out)] if actions is None else list(actions)
    head = ("output", "typical size (sd)", *(f"{q} % of errors below" for q in (50, 90, 99)), "largest error")
    rows = []
    for i, name in enumerate(names):
        levels = np.quantile(error[:, i], (0.5, 0.9, 0.99, 1.0))
        rows.append((name, *map(significant, (answers.held_out.outputs[:, i].std(), *levels))))
    return head, rows


def _settings(network: SpikingNetwork) -> list[tuple[str, ...]]:
    settings = network.conversion.get("settings")
    pairs = in_use(settings) if isinstance(settings, dict) else {"timesteps": network.timesteps}
    method = network.method()
    rows = [(str(name).replace("_", " "), _word(value)) for name, value in pairs.items()]
    if network.spec.split_inputs:
        rows.append(("split inputs", "on"))
    grid = network.conversion.get("weight_grid")
    if grid:
        moved = significant(max(grid["largest_change"]))
        rows.append(("weight grid", f"{grid['bits']} bits; a weight moved by at most {moved}"))
    return [*rows, ("runs on", f"{method['backend']}, {method['isa']}: {method['method']}")]


def _word(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _where(replay: Replay) -> str:
    about = replay.metadata
    if about.get("env_id") is None:
        return "of an unknown environment"
    return f"of {about['env_id']}, where the policy acts itself (seed {about.get('seed', 'unknown')})"
