# SPDX-License-Identifier: Apache-2.0
"""Every method of conversion over several trained policies: similarity, steps, spikes, certificates; against targets.

Each network plays, and the original is asked about the same states (*on-policy*). A target is a mean and a minimum
over the policies of the similarity, or a most of mean steps or spikes: what the project promises of a method. A
prediction is compared with the share that was measured; where the episodes played leave that unsure, ten times as many
others are played, and it is compared with theirs too: a target of its own.
"""

from __future__ import annotations

import dataclasses
import operator
import statistics
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from snnfast.bench.machine import provenance
from snnfast.bench.policies import Holding, Protocol, cache_folder, default_cache, holding
from snnfast.conversion import convert
from snnfast.conversion.prediction import predict_similarity
from snnfast.evaluation import EvaluationReport, evaluate
from snnfast.network import SpikingNetwork
from snnfast.shares import in_percent, percent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A conversion and what is expected of it; targets that are None do not exist.

    Attributes:
        name: of the row.
        settings: arguments of :func:`snnfast.convert`.
        mean, least: similarity, mean and minimum over the policies.
        steps, spikes: per decision, mean over the policies, at most.
        without_exit: preset of the network whose every decision it has to make; None without a certified exit.
    """

    name: str
    settings: dict[str, Any]
    mean: float | None = None
    least: float | None = None
    steps: float | None = None
    spikes: float | None = None
    without_exit: str | None = None


#: How far a prediction may be from what is then measured, on any policy.
PREDICTION_ERROR = 0.005
#: A share less sure than this either way (95 %) is measured over `_LONGER` times the episodes as well.
SURE = 0.0025
_LONGER = 10
_OTHER_SEEDS = 1_000_000
#: States that predictions are counted on, 600 episodes. Where an episode begins can decide how alike it is: with one
#: policy in ten (509) the share differs by 3.9 points from episode to episode, and 120 of them leave 0.7 unsure.
_HELD_OUT = 300_000

RECIPES = (
    Recipe(name="thesis", settings={"preset": "thesis"}),
    Recipe(name="rate", settings={"preset": "rate"}, mean=0.994, least=0.98),
    Recipe(name="rate-copies, T=32", settings={"preset": "rate-copies", "timesteps": 32}, mean=0.995, least=0.987),
    Recipe(name="rate-copies", settings={"preset": "rate-copies"}, mean=0.9993, least=0.998),
    Recipe(name="rate-copies, signed", settings={"preset": "rate-copies", "signed": True}, mean=0.9993, least=0.998),
    Recipe(name="rate-early-exit", settings={"preset": "rate-early-exit"}, mean=0.9994, least=0.9985, steps=6),
    # The range that every exit had before several were tried: what trying gains, and what it costs in similarity.
    Recipe(name="rate-early-exit, 99.99", settings={"preset": "rate-early-exit", "percentile": 99.99}),
    Recipe(name="staged", settings={"preset": "staged"}),
    Recipe(name="radix", settings={"preset": "radix"}),
    Recipe(
        name="radix-certified",
        settings={"preset": "radix-certified"},
        mean=0.9992,
        least=0.998,
        steps=16,
        spikes=90,
        without_exit="radix",
    ),
    Recipe(name="digits", settings={"preset": "digits"}, mean=0.9999, least=0.9996, spikes=115),
    Recipe(
        name="digits-certified",
        settings={"preset": "digits-certified"},
        mean=0.9998,
        least=0.9995,
        steps=5,
        spikes=45,
    ),
    Recipe(name="digits-calibrated", settings={"preset": "digits-calibrated"}, mean=0.9997, least=0.9993, steps=4.3),
    Recipe(name="fewest-spikes", settings={"preset": "fewest-spikes"}, mean=0.9995, spikes=45),
    Recipe(name="fewest-spikes-exit", settings={"preset": "fewest-spikes-exit"}, mean=0.9995, spikes=33),
)


def run(
    *,
    seeds: int = 10,
    first_seed: int = 1,
    only: tuple[str, ...] = (),
    cache: Path | None = None,
    protocol: Protocol | None = None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Train (or read) policies until ``seeds`` of them hold, convert each in every way, and compare.

    Args:
        seeds: how many policies that hold are wanted.
        first_seed: seeds are tried from this one on.
        only: names of recipes; all of them by default.
        cache: folder for trained policies; the user's by default.
        protocol: what is measured.
        say: prints a line.

    Returns:
        Per recipe: every policy's figures, mean and extremes over the policies, and which targets were met.

    Raises:
        ValueError: if ``only`` names no recipe.
        RuntimeError: if fewer than one policy in five holds.
    """
    recipes = recipes_of(only)
    protocol = protocol or Protocol(replay_size=60_000, held_out_size=_HELD_OUT)
    folder = cache_folder(default_cache() if cache is None else cache, protocol)
    say(f"{protocol.env_id}: {seeds} policies, {protocol.episodes} x {protocol.max_steps} steps per policy and recipe")
    say(f"trained policies are kept in {folder}")
    rows: dict[str, list[dict[str, Any]]] = {recipe.name: [] for recipe in recipes}
    failed: list[dict[str, Any]] = []
    for held in holding(protocol, seeds=seeds, first_seed=first_seed, cache=cache, failed=failed, say=say):
        say(f"\nseed {held.seed}, trained for {held.training['episodes']} episodes\n{_HEADER}")
        for recipe in recipes:
            rows[recipe.name].append(_measure(held, recipe))
            say(_line(recipe.name, rows[recipe.name][-1]))
    results = {recipe.name: _judged(recipe, rows[recipe.name]) for recipe in recipes}
    result = {
        "benchmark": "conversion",
        "protocol": dataclasses.asdict(protocol),
        "recipes": results,
        "failed_seeds": failed,
        "all_met": all(target["met"] for found in results.values() for target in found["targets"]),
        **provenance(),
    }
    say(table(result))
    return result


def recipes_of(only: Collection[str]) -> list[Recipe]:
    """The recipes of these names, in their usual order; all of them for none.

    Raises:
        ValueError: if ``only`` names no recipe.
    """
    unknown = sorted(set(only) - {recipe.name for recipe in RECIPES})
    if unknown:
        raise ValueError(f"only must name recipes of {[recipe.name for recipe in RECIPES]}, got {unknown}")
    return [recipe for recipe in RECIPES if not only or recipe.name in only]


def _measure(held: Holding, recipe: Recipe) -> dict[str, Any]:
    """One policy's figures with one recipe."""
    began = time.perf_counter()
    network = convert(held.policy, held.replay, **recipe.settings)
    seconds = time.perf_counter() - began
    env_id = held.original.env_id
    report = evaluate(env_id, network, compare_against=held.policy, **held.rules)
    assert report.similarity is not None
    prediction = predict_similarity(network, held.policy, held.held_out)
    row = {
        "seed": held.seed,
        "similarity": report.similarity,
        "predicted": prediction.similarity,
        "predicted_interval": list(prediction.interval),
        "counted": prediction.counted,
        "theory": prediction.theory,
        "similarity_interval": list(report.similarity_interval or ()),
        "decisions": report.decisions,
        "mean_return": report.mean_return,
        "std_return": report.std_return,
        "original_return": held.original.mean_return,
        "mean_steps": report.mean_steps,
        "spikes_per_decision": report.spikes_per_decision,
        "synaptic_operations_per_decision": report.synaptic_operations_per_decision,
        "certified_share": report.certified_share,
        "certified_differing": report.certified_differing,
        "saturated_share": report.saturated_share,
        "convert_seconds": seconds,
        "evaluation_seconds": report.seconds,
        "longer": _longer(held, network, report),
    }
    if recipe.without_exit is not None:
        row["differing_without_exit"] = _differing(held, network, recipe.without_exit)
    return row


def _longer(held: Holding, network: SpikingNetwork, report: EvaluationReport) -> dict[str, Any] | None:
    """The similarity over more episodes, of other seeds, if the report leaves it unsure; else None."""
    low, high = report.similarity_interval or (0.0, 0.0)
    if high - low <= 2 * SURE:
        return None
    rules = held.rules | {"episodes": _LONGER * held.rules["episodes"], "seed": held.rules["seed"] + _OTHER_SEEDS}
    longer = evaluate(held.original.env_id, network, compare_against=held.policy, **rules)
    assert longer.similarity is not None
    assert longer.similarity_interval is not None
    return {"episodes": longer.episodes, "similarity": longer.similarity, "interval": list(longer.similarity_interval)}


def _differing(held: Holding, network: SpikingNetwork, preset: str) -> int:
    """How many decisions the network makes otherwise than the same conversion without an exit."""
    whole = convert(held.policy, held.replay, preset=preset)
    report = evaluate(held.original.env_id, network, compare_against=whole, **held.rules)
    return report.decisions - sum(report.episode_agreements or ())


def _judged(recipe: Recipe, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and extremes over the policies, and every target with what was reached."""
    names = ("similarity", "mean_steps", "spikes_per_decision")
    over = {name: _over([row[name] for row in rows]) for name in names}
    targets: list[dict[str, Any]] = []

    def judge(what: str, wanted: float | None, reached: float, holds: Callable[[float, float], bool]) -> None:
        if wanted is not None:
            targets.append({"what": what, "wanted": wanted, "reached": reached, "met": holds(reached, wanted)})

    judge("mean similarity", recipe.mean, over["similarity"]["mean"], operator.ge)
    judge("least similarity", recipe.least, over["similarity"]["min"], operator.ge)
    judge("mean steps", recipe.steps, over["mean_steps"]["mean"], operator.le)
    judge("spikes", recipe.spikes, over["spikes_per_decision"]["mean"], operator.le)
    if recipe.without_exit is not None:
        count = sum(row["differing_without_exit"] for row in rows)
        judge(f"decisions that differ from {recipe.without_exit}", 0, count, operator.le)
    elif rows[0]["certified_differing"] is not None:
        count = sum(row["certified_differing"] for row in rows)
        judge("certified decisions that differ from the original", 0, count, operator.le)
    off = [row["predicted"] - row["similarity"] for row in rows]
    judge("largest error of the prediction", PREDICTION_ERROR, max(map(abs, off)), operator.le)
    longer = [abs(row["predicted"] - row["longer"]["similarity"]) for row in rows if row["longer"]]
    if longer:
        judge("the same over more episodes, where they are unsure", PREDICTION_ERROR, max(longer), operator.le)
    unequal = sum(row["mean_return"] != row["original_return"] for row in rows)
    if recipe.mean is not None:
        judge("policies with another return than the original", 0, unequal, operator.le)
    return {
        "settings": recipe.settings,
        "seeds": rows,
        **over,
        "prediction_error": _over(off),
        "unequal_returns": unequal,
        "targets": targets,
    }


def _over(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "min": min(values), "max": max(values)}


_HEADER = (
    f"{'':<20} {'similarity':>11} {'predicted':>11} {'return':>8} {'steps':>8} "
    f"{'spikes':>8} {'certified':>11} {'seconds':>8}"
)


def _line(name: str, row: dict[str, Any]) -> str:
    share = row["certified_share"]
    return (
        f"{name:<20} {in_percent(row['similarity'], 3):>9} % {in_percent(row['predicted'], 3):>9} % "
        f"{row['mean_return']:>8.1f} {row['mean_steps']:>8.2f} "
        f"{row['spikes_per_decision']:>8.1f} {'' if share is None else percent(share):>11} "
        f"{row['evaluation_seconds']:>8.2f}"
    )


def _points(errors: dict[str, float]) -> str:
    return f"{100 * errors['min']:+.2f} to {100 * errors['max']:+.2f}"


def table(result: dict[str, Any]) -> str:
    """The table over the policies, and a line for every target that was missed."""
    found = result["recipes"]
    count = len(next(iter(found.values()))["seeds"])
    lines = [
        "",
        f"over {count} polic{'y' if count == 1 else 'ies'}",
        f"{'':<20} {'similarity':>11} {'least':>10} {'steps':>8} {'spikes':>8} {'prediction off by':>18}  targets",
    ]
    for name, row in found.items():
        targets = row["targets"]
        met = sum(target["met"] for target in targets)
        verdict = "" if not targets else "all met" if met == len(targets) else f"{met} of {len(targets)} met"
        lines.append(
            f"{name:<20} {in_percent(row['similarity']['mean'], 3):>9} % "
            f"{in_percent(row['similarity']['min'], 3):>8} % "
            f"{row['mean_steps']['mean']:>8.2f} {row['spikes_per_decision']['mean']:>8.1f} "
            f"{_points(row['prediction_error']):>18}  {verdict}".rstrip()
        )
    longer = [
        f"{name}, seed {row['seed']}: {percent(row['predicted'], 3)} predicted, "
        f"{percent(row['similarity'], 3)} measured, "
        f"unsure by {50 * (row['similarity_interval'][1] - row['similarity_interval'][0]):.2f} points either way; "
        f"{percent(row['longer']['similarity'], 3)} over {row['longer']['episodes']} other episodes"
        for name, recipe in found.items()
        for row in recipe["seeds"]
        if row["longer"]
    ]
    missed = [
        f"missed: {name}: {target['what']}: {target['reached']:.6g}, wanted {target['wanted']:.6g}"
        for name, row in found.items()
        for target in row["targets"]
        if not target["met"]
    ]
    return "\n".join([*lines, *([""] if longer else []), *longer, *([""] if missed else []), *missed])
