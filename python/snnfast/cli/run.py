# SPDX-License-Identifier: Apache-2.0
"""``snnfast run cartpole``: the whole path, from an untrained policy to a compared spiking network, in one folder."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shlex
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

from torch import nn

from snnfast import plots
from snnfast.checkpoint import CheckpointError, atomic_write
from snnfast.cli.common import Output, Subparsers, UsageError, add_command, count, plots_available, program
from snnfast.conversion import convert
from snnfast.evaluation import EvaluationReport, evaluate
from snnfast.info import versions
from snnfast.learning import Replay, load_policy, make_policy, record_replay, save_policy, train_policy_gradient
from snnfast.network import SpikingNetwork
from snnfast.runs import CONFIG, Mode, RunFolder, check_name, open_run, to_json
from snnfast.shares import percent

PRESETS = ("thesis", "rate")
#: Everything that has a part in the numbers.
_VERSIONS = ("snnfast", "python", "torch", "numpy", "gymnasium", "safetensors")


@dataclasses.dataclass(frozen=True)
class Task:
    """A known problem: the environment, the policy's sizes, the names of the actions."""

    env_id: str
    sizes: tuple[int, ...]
    actions: tuple[str, ...]


TASKS = {"cartpole": Task("CartPole-v1", (4, 16, 16, 2), ("left", "right"))}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that determines the results of a run."""

    task: str
    seed: int = 1
    train_max_steps: int = 200
    max_episodes: int = 3000
    replay_size: int = 20_000
    max_steps: int = 500
    episodes: int = 100
    allow_unsolved: bool = False
    no_plots: bool = False

    @property
    def evaluation_seed(self) -> int:
        """Another one than that of the replay, so that the evaluation meets states that the conversion has not seen."""
        return self.seed + 10_000


#: May differ from the stored ones when a run is continued: they change how far it goes, not what happens.
_MAY_CHANGE = ("max_episodes", "allow_unsolved", "no_plots")

_STAGES = ("train", "record", "convert", "evaluate")
INITIAL, TRAINED, STATE = "initial.safetensors", "trained.safetensors", "training.safetensors"
CURVE, CURVE_PLOT, REPLAY = "training.csv", "training.png", "replay.safetensors"
RESULTS, RESULTS_PLOT, RASTER = "evaluation.json", "evaluation.png", "raster.png"
NETWORKS = {preset: f"{preset}.safetensors" for preset in PRESETS}
OWNED = (INITIAL, TRAINED, STATE, CURVE, CURVE_PLOT, REPLAY, *NETWORKS.values(), RESULTS, RESULTS_PLOT, RASTER)
_FILES = {
    TRAINED: "the trained policy (initial.safetensors: before training)",
    CURVE: "every episode of the training; training.png is the picture",
    REPLAY: "the states that the activation scales come from",
    NETWORKS["thesis"]: "the spiking network of the 2020 thesis system",
    NETWORKS["rate"]: "the spiking network to use",
    RESULTS: "all figures; evaluation.png is the picture",
    RASTER: "the spikes of one decision",
}


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    defaults = Settings("cartpole")
    parser = add_command(
        subparsers,
        "run",
        _run,
        summary="the whole path: train, record, convert, evaluate",
        description=(
            "Train a policy, record a replay memory of it, convert it with the presets thesis and rate, and compare\n"
            "both spiking networks with it. Everything is kept in one folder, which is never overwritten unasked."
        ),
        example="snnfast run cartpole --name first --seed 1",
    )
    parser.add_argument("task", choices=sorted(TASKS), help="what to learn")
    folder = parser.add_argument_group("the folder of the run")
    folder.add_argument("--name", metavar="NAME", help="name of the folder (default: that of the task)")
    folder.add_argument("--root", metavar="DIR", type=Path, default=Path("runs"), help="where it is (default: runs)")
    existing = folder.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume", action="store_true", help="continue the run, or show its results if it is finished"
    )
    existing.add_argument("--overwrite", action="store_true", help="delete the files of the run and start anew")
    existing.add_argument("--suffix", action="store_true", help="keep the run and use a new folder: NAME-2, ...")
    size = parser.add_argument_group("how much of everything")
    for name, text in (
        ("max-episodes", "give up training after so many episodes"),
        ("replay-size", "states in the replay memory"),
        ("max-steps", "limit of an episode in evaluation and replay"),
        ("episodes", "episodes per evaluation"),
    ):
        default = getattr(defaults, name.replace("-", "_"))
        size.add_argument(f"--{name}", type=count, metavar="N", help=f"{text} (default: {default})")
    size.add_argument(
        "--allow-unsolved",
        action="store_true",
        default=None,
        help="go on with a policy that is not good enough, instead of stopping after training",
    )
    parser.add_argument("--no-plots", action="store_true", default=None, help="draw no pictures")


def _run(arguments: argparse.Namespace, out: Output) -> int:
    began = time.perf_counter()
    given = {
        field.name: getattr(arguments, field.name)
        for field in dataclasses.fields(Settings)
        if getattr(arguments, field.name, None) is not None
    }
    settings = Settings(**given)
    name = arguments.name or arguments.task
    try:
        check_name(name)
    except ValueError as error:
        raise UsageError(f"--{error}") from error
    if out.json_path not in (None, "-"):
        inside = Path(str(out.json_path)).resolve().parent == (arguments.root / name).resolve()
        if inside:
            raise UsageError(f"--json {out.json_path} is in the folder of the run: choose another place")
    chosen = [mode for mode in ("resume", "overwrite", "suffix") if getattr(arguments, mode)]
    mode = cast(Mode, chosen[0] if chosen else "new")
    config = {
        "settings": dataclasses.asdict(settings),
        "command": shlex.join(["snnfast", *arguments.argv]),
        "versions": versions(*_VERSIONS),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    with open_run(arguments.root, name, config, mode, OWNED) as folder:
        if folder.resumed:
            settings = _stored_settings(folder, given)
        path = folder.path
        # Every stage is looked at: a finished run whose files were damaged since is not finished.
        if folder.resumed and all(folder.completed(stage) is not None for stage in _STAGES):
            out.say(f"{path} is finished; these are its results")
        else:
            if mode == "resume" and not folder.resumed:
                out.say(f"nothing to resume: there was no run in {path}, so one begins")
            out.say(f"{'continuing' if folder.resumed else 'run folder'} {path}, seed {settings.seed}")
            plots = plots_available() and not settings.no_plots
            if not plots and not settings.no_plots:
                out.say('no pictures: matplotlib is not installed (pip install "snnfast[plot]")')
            try:
                _Stages(folder, settings, plots, out, began).all()
            except KeyboardInterrupt:
                options = shlex.join([arguments.task, "--name", path.name, "--root", str(arguments.root), "--resume"])
                out.say(f"\nstopped; everything so far is in {path}. Continue with: {program()} run {options}")
                raise
        results = _read_results(folder)
        out.say()
        out.say(results_table(results))
        out.say()
        out.say(f"files in {path}")
        width = max(map(len, _FILES))
        for file, what in _FILES.items():
            if (folder / file).exists():
                out.say(f"  {file:<{width}}  {what}")
        network, policy = (shlex.quote(str(path / file)) for file in (NETWORKS["rate"], TRAINED))
        out.say(f"\nnext: {program()} evaluate {network} --compare {policy} --gif {shlex.quote(f'{name}.gif')}")
        out.write(results)
    return 0


def _stored_settings(folder: RunFolder, given: Mapping[str, Any]) -> Settings:
    """The settings that a run was started with; what the command line gives may not contradict them."""
    stored = folder.config.get("settings")
    fields = {field.name: field.default for field in dataclasses.fields(Settings)}
    if not isinstance(stored, dict) or set(stored) != set(fields):
        raise ValueError(f"{folder / CONFIG} is damaged: its settings are not those of a run; use --overwrite")
    for name, value in stored.items():
        example: object = fields[name] if name != "task" else ""
        if type(value) is not type(example) or (isinstance(value, int) and not isinstance(value, bool) and value < 0):
            raise ValueError(f"{folder / CONFIG} is damaged: {name} is {value!r}; use --overwrite")
    if stored["task"] not in TASKS:
        raise ValueError(f"{folder / CONFIG} names the unknown task {stored['task']!r}")
    different = [
        f"--{name.replace('_', '-')} {stored[name]}" if name != "task" else f"the task {stored[name]}"
        for name, value in given.items()
        if name not in _MAY_CHANGE and stored[name] != value
    ]
    if different:
        raise UsageError(
            f"{folder.path} was started with {', '.join(different)}: leave these out to continue it, "
            "or start anew with --overwrite or --suffix"
        )
    changed = {name: given[name] for name in _MAY_CHANGE if name in given}
    return Settings(**{**stored, **changed})


class _Stages:
    """The stages of a run, each done once: what is finished and undamaged is read back instead."""

    def __init__(self, folder: RunFolder, settings: Settings, plots: bool, out: Output, began: float) -> None:
        self.folder, self.settings, self.plots, self.out, self.began = folder, settings, plots, out, began
        self.task = TASKS[settings.task]
        self.earlier_seconds = 0.0  # spent in sessions before this one, on what is used now

    def all(self) -> None:
        policy = self._stage("train", "training", self._train, self._read_policy)
        replay = self._stage("record", "recording a replay memory", lambda: self._record(policy), self._read_replay)
        networks = self._stage("convert", "converting", lambda: self._convert(policy, replay), self._read_networks)
        self._stage("evaluate", "evaluating", lambda: self._evaluate(policy, replay, networks), lambda: None)

    def _stage(
        self,
        name: str,
        title: str,
        work: Callable[[], tuple[Any, list[str], dict[str, Any]]],
        read: Callable[[], Any],
    ) -> Any:
        number = 1 + _STAGES.index(name)
        self.out.say(f"\n{number}/4 {title}")
        finished = self.folder.completed(name)
        if finished is not None:
            self.out.say(f"    already done: {finished['said']}")
            self.earlier_seconds += self.folder.seconds(name)
            return read()
        began, before = time.perf_counter(), self.earlier_seconds
        self.earlier_seconds += self.folder.spent(name)
        try:
            product, files, result = work()
        except BaseException:
            if name != "train":  # the state of training keeps its own time
                with contextlib.suppress(OSError):  # the reason to stop is what matters
                    self.folder.spend(name, time.perf_counter() - began)
            raise
        self.folder.finish(name, files, time.perf_counter() - began + self.earlier_seconds - before, result)
        return product

    def _say(self, text: str) -> str:
        self.out.say(f"    {text}")
        return text

    # Training

    def _train(self) -> tuple[nn.Sequential, list[str], dict[str, Any]]:
        settings, folder = self.settings, self.folder
        self._say(
            f"{self.task.env_id}, {'-'.join(map(str, self.task.sizes))} with ReLU, policy gradient, one update per "
            "episode"
        )
        about = {"env_id": self.task.env_id, "seed": settings.seed}
        policy = make_policy(self.task.sizes, seed=settings.seed)
        save_policy(policy, folder / INITIAL, about)
        arguments: dict[str, Any] = {
            "seed": settings.seed,
            "max_steps": settings.train_max_steps,
            "max_episodes": settings.max_episodes,
            "check_max_steps": settings.max_steps,
            "checkpoint_path": folder / STATE,
        }
        began = time.perf_counter()
        try:
            result = train_policy_gradient(self.task.env_id, policy, resume=(folder / STATE).exists(), **arguments)
        except CheckpointError as error:
            self._say(f"{error}; training starts from the beginning")
            (folder / STATE).unlink()
            policy = make_policy(self.task.sizes, seed=settings.seed)
            result = train_policy_gradient(self.task.env_id, policy, **arguments)
        self.earlier_seconds += max(0.0, result.seconds - (time.perf_counter() - began))
        for message in result.messages:
            self._say(message)
        result.save_csv(folder / CURVE)
        files = [INITIAL, TRAINED, CURVE]
        if self.plots:
            plots.training_curve(
                result.returns,
                result.means,
                result.solved_at,
                folder / CURVE_PLOT,
                durations=result.durations,
                threshold=result.settings["threshold"],
                title=f"{self.task.env_id}: policy gradient, seed {settings.seed}",
            )
            files.append(CURVE_PLOT)
        if not (result.solved and result.holds) and not settings.allow_unsolved:
            raise RuntimeError(
                "the policy is not good enough to go on with; try another --seed, or continue with --resume and "
                f"--max-episodes above {settings.max_episodes}, or with --resume --allow-unsolved"
            )
        facts = {
            "episodes": result.episodes,
            "solved_at": result.solved_at,
            "extra_episodes": result.extra_episodes,
            "greedy_return_at_solved": result.greedy_return_at_solved,
            "greedy_return": result.greedy_return,
            "holds": result.holds,
        }
        save_policy(policy, folder / TRAINED, {**about, **facts, "training": result.settings})
        self._say(f"{result.episodes:,} episodes in {result.seconds:.1f} s")
        said = f"{result.episodes:,} episodes, " + (
            f"solved after {result.solved_at}" if result.solved else "not solved"
        )
        return policy, files, {"said": said, **facts, "messages": result.messages, "seconds": result.seconds}

    def _read_policy(self) -> nn.Sequential:
        return load_policy(self.folder / TRAINED)

    # Replay

    def _record(self, policy: nn.Sequential) -> tuple[Replay, list[str], dict[str, Any]]:
        settings = self.settings
        began = time.perf_counter()
        replay = record_replay(
            self.task.env_id, policy, size=settings.replay_size, max_steps=settings.max_steps, seed=settings.seed
        )
        replay.save(self.folder / REPLAY)
        said = f"{len(replay.observations):,} states of the greedy policy"
        self._say(f"{said}, in {time.perf_counter() - began:.1f} s")
        return replay, [REPLAY], {"said": said, "states": len(replay.observations)}

    def _read_replay(self) -> Replay:
        return Replay.load(self.folder / REPLAY)

    # Conversion

    def _convert(
        self, policy: nn.Sequential, replay: Replay
    ) -> tuple[dict[str, SpikingNetwork], list[str], dict[str, Any]]:
        networks = {}
        for preset, file in NETWORKS.items():
            network = convert(policy, replay, preset=preset)
            network.save(self.folder / file)
            networks[preset] = network
            used = network.conversion["settings"]
            self._say(
                f"{preset:<6}  {used['scaling']} scaling at {used['percentile']:g} %, {used['order']} order, "
                f"{used['readout']} potential, T={used['timesteps']}"
            )
        return networks, list(NETWORKS.values()), {"said": " and ".join(NETWORKS)}

    def _read_networks(self) -> dict[str, SpikingNetwork]:
        return {preset: SpikingNetwork.load(self.folder / file) for preset, file in NETWORKS.items()}

    # Evaluation

    def _evaluate(
        self, policy: nn.Sequential, replay: Replay, networks: Mapping[str, SpikingNetwork]
    ) -> tuple[None, list[str], dict[str, Any]]:
        settings, folder = self.settings, self.folder
        rules: dict[str, Any] = {
            "episodes": settings.episodes,
            "max_steps": settings.max_steps,
            "seed": settings.evaluation_seed,
        }
        self._say(
            f"{settings.episodes} episode{'s'[: settings.episodes != 1]} of at most {settings.max_steps} steps each, "
            "from the same start states"
        )
        original = evaluate(self.task.env_id, policy, **rules)
        self._say(f"original  {original.decisions:,} decisions in {original.seconds:.2f} s")
        reports = {}
        for preset, network in networks.items():
            reports[preset] = report = evaluate(self.task.env_id, network, compare_against=policy, **rules)
            self._say(f"{preset:<8}  {report.decisions:,} decisions in {report.seconds:.2f} s")
        files = [RESULTS]
        if self.plots:
            self._draw(reports, networks["rate"], replay)
            files += [RESULTS_PLOT, RASTER]
        training = folder.completed("train") or {}
        results = {
            "seconds": self.earlier_seconds + time.perf_counter() - self.began,
            "task": settings.task,
            "env_id": self.task.env_id,
            "settings": dataclasses.asdict(settings),
            "versions": versions(*_VERSIONS),
            "training": {name: value for name, value in training.items() if name != "said"},
            "original": original.as_dict(),
            "presets": {preset: report.as_dict() for preset, report in reports.items()},
        }
        atomic_write(folder / RESULTS, to_json(results))
        return None, files, {"said": "evaluation"}

    def _draw(self, reports: Mapping[str, EvaluationReport], network: SpikingNetwork, replay: Replay) -> None:
        settings = self.settings
        plots.evaluation_plot(
            reports,
            self.folder / RESULTS_PLOT,
            title=f"{self.task.env_id}: spiking networks against the policy they come from, seed {settings.seed}",
        )
        middle = len(replay.observations) // 2
        simulation = network.simulate(replay.observations[middle : middle + 1], record=("spikes", "potentials"))
        plots.raster(
            simulation,
            self.folder / RASTER,
            outputs=self.task.actions,
            title=f"One decision of the spiking network (preset rate, T={network.timesteps})",
        )


def _read_results(folder: RunFolder) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((folder / RESULTS).read_text("utf-8"))
    return results


def results_table(results: Mapping[str, Any]) -> str:
    """The results of a run, original and spiking networks side by side, and what each figure means."""
    original, presets = results["original"], results["presets"]
    columns = {"original": original, **presets}
    limit, episodes = original["max_steps"], original["episodes"]

    def similarity(report: Mapping[str, Any]) -> str:
        return "" if report["similarity"] is None else percent(report["similarity"])

    def number(key: str, pattern: str) -> Callable[[Mapping[str, Any]], str]:
        return lambda report: "" if report[key] is None else format(report[key], pattern)

    rows: list[tuple[str, Callable[[Mapping[str, Any]], str], str]] = [
        (
            "mean return",
            number("mean_return", ".1f"),
            f"how well it plays: the best is {limit}, over {episodes} episode{'s'[: episodes != 1]}",
        ),
        # Of one episode, which says nothing about others, it would be 0.
        *[("sd of returns", number("std_return", ".1f"), "how much that varies from episode to episode")]
        * (episodes > 1),
        ("similarity", similarity, "share of decisions that are the original's, on the same states"),
        ("decisions", number("decisions", ",d"), "that many were compared"),
        ("time steps", number("timesteps", "d"), "T, simulated for each decision"),
        ("spikes", number("spikes_per_decision", ",.0f"), "per decision, all neurons and time steps together"),
        ("synaptic ops", number("synaptic_operations_per_decision", ",.0f"), "additions per decision caused by spikes"),
    ]
    width = max(10, *(len(name) + 2 for name in columns))
    lines = [f"{results['env_id']}, seed {results['settings']['seed']}, {results['seconds']:.1f} s in all", ""]
    lines.append(f"{'':<14}" + "".join(f"{name:>{width}}" for name in columns))
    for name, cell, meaning in rows:
        lines.append(
            f"{name:<14}" + "".join(f"{cell(report):>{width}}" for report in columns.values()) + f"   {meaning}"
        )
    return "\n".join(lines)
