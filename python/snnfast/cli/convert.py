# SPDX-License-Identifier: Apache-2.0
"""``snnfast convert``: a trained policy becomes a spiking network."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from torch import nn

from snnfast.cli.common import (
    Output,
    Subparsers,
    UsageError,
    add_command,
    add_imports,
    check_distinct,
    check_target,
    count,
    count_or_none,
    describe_replay,
    need_env,
    read_policy,
)
from snnfast.cli.pages import check_page, write_conversion_page
from snnfast.conversion import DEFAULT_PRESET, PRESETS, Method, Readout, ScalingMethod, convert, describe_presets
from snnfast.conversion.choice import Choice, TargetNotReached
from snnfast.conversion.comparison import HeldOut
from snnfast.conversion.convert import check_free
from snnfast.conversion.digits import schedule
from snnfast.conversion.grid import check_bits
from snnfast.conversion.presets import ABOUT, Budget, Calibration, Preset, steps_in_words
from snnfast.conversion.settings import in_use, resolve
from snnfast.learning import Replay, record_replay
from snnfast.network import SpikingNetwork
from snnfast.spec import NeuronSpec, Order
from snnfast.spec.codes import ExitKind

#: Options that are settings of a preset, by the names of convert()'s arguments.
_SETTINGS = (
    "method",
    "scaling",
    "percentile",
    "shift",
    "headroom",
    "timesteps",
    "order",
    "initial_potential",
    "readout",
    "copies",
    "signed",
    "ramp",
    "tau",
    "first_steps",
    "kappa",
    "guard",
    "spike_error",
    "early_exit",
    "exit_factor",
    "calibrate",
)


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "convert",
        _convert,
        summary="turn a trained policy into a spiking network",
        description=(
            "Turn a trained policy (Linear and ReLU layers) into a network of integrate-and-fire neurons.\n"
            "Settings come from the preset; options given beside it override them."
        ),
        example="snnfast convert cartpole --preset digits-certified --out net.safetensors",
    )
    parser.usage = (
        "snnfast convert policy --out FILE [--preset NAME] [other options]\n       snnfast convert --presets [--json F]"
    )
    needed = [
        parser.add_argument("policy", help="policy file, or the word 'cartpole' for the one that comes with snnfast"),
        parser.add_argument("--out", required=True, metavar="FILE", type=Path, help="file for the spiking network"),
    ]
    parser.add_argument("--overwrite", action="store_true", help="replace FILE, and the page in DIR, if they exist")
    parser.add_argument("--report", metavar="DIR", type=Path, help="folder for a page about the network, with pictures")
    parser.add_argument(
        "--report-episodes",
        type=count_or_none,
        default=100,
        metavar="N",
        help="episodes to play for it (default: 100; 0: none)",
    )
    parser.add_argument(
        "--presets", action=_InsteadOf, needed=needed, help="describe every preset, and do nothing else"
    )
    source = parser.add_argument_group("states to take activation scales from")
    source.add_argument("--replay", metavar="FILE", help="a replay memory; without it one is recorded now")
    source.add_argument("--env", metavar="ID", help="environment to record in (default: the one in the policy file)")
    add_imports(source)
    source.add_argument(
        "--size", type=count, metavar="N", help="states to record, in episodes of at most 500 steps (default: 20000)"
    )
    which = parser.add_argument_group("what kind of network", "either named settings, or what it has to reach")
    which.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        metavar="NAME",
        help=f"named settings; --presets describes them (default: the one of the method's name, or {DEFAULT_PRESET})",
    )
    which.add_argument(
        "--method", choices=get_args(Method), help="how hidden neurons tell each other a number (default: the preset's)"
    )
    which.add_argument(
        "--target-similarity",
        type=float,
        metavar="X",
        help="in place of all settings: find the cheapest network with this share of equal decisions (0.999, say)",
    )
    which.add_argument("--budget", choices=get_args(Budget), help="what is to be cheap then (default: steps)")
    ranges = parser.add_argument_group("ranges of activations")
    ranges.add_argument("--scaling", choices=get_args(ScalingMethod), help="where activation scales come from")
    ranges.add_argument(
        "--percentile",
        type=float,
        metavar="P",
        help="of robust and neuron scaling, in percent (default: the preset's; rate with neuron scaling and a "
        "calibrated exit tries several)",
    )
    _switch(ranges, "--shift", "begin each neuron's range at its lower percentile (neuron scaling)")
    ranges.add_argument(
        "--headroom",
        type=float,
        metavar="X",
        help="times as wide ranges as on the replay, for states beyond it (neuron scaling)",
    )
    time = parser.add_argument_group("steps and neurons")
    time.add_argument(
        "--timesteps", type=count, metavar="T", help="steps per decision; of one hidden layer with staged and radix"
    )
    time.add_argument(
        "--readout", choices=get_args(Readout), help="what is read of the last layer's membrane potential (rate)"
    )
    time.add_argument("--copies", type=count, metavar="K", help="staggered copies of every neuron (rate, staged)")
    _switch(time, "--signed", "let neurons take spikes back (rate)")
    _switch(time, "--ramp", "let early spikes weigh more (staged)")
    time.add_argument("--order", choices=get_args(Order), help="order of the neuron's update (delayed: rate only)")
    time.add_argument(
        "--initial-potential", type=float, metavar="X", help="of hidden neurons, in thresholds (not digits)"
    )
    digits = parser.add_argument_group("schedule of signed digits (digits)")
    digits.add_argument("--tau", type=float, metavar="X", help="threshold in digits, 0.5 to 1; higher: fewer spikes")
    digits.add_argument("--first-steps", type=count, metavar="T", help="the first layer stops after this many steps")
    digits.add_argument(
        "--kappa", type=float, metavar="X", help="standard deviations to expect in place of the worst case"
    )
    _switch(digits, "--guard", "binary spikes only")
    digits.add_argument(
        "--spike-error",
        type=float,
        metavar="X",
        help="in place of the above and of --timesteps: fewest spikes for this share of the margin (2e-4, for example)",
    )
    leave = parser.add_argument_group("stopping early")
    leave.add_argument(
        "--early-exit",
        choices=("none", *get_args(ExitKind)),
        help="calibrated: as far ahead as no wrong decision of the replay was (rate, digits); "
        "certified: nothing can change the decision (radix, digits)",
    )
    leave.add_argument(
        "--exit-factor", type=float, metavar="X", help="times as far ahead as that, with the calibrated exit"
    )
    rest = parser.add_argument_group("inputs and weights")
    rest.add_argument(
        "--calibrate",
        choices=("none", *get_args(Calibration)),
        help="for very few steps: shift biases by what the spikes are off by on average, or train on (qcfs, some "
        "seconds; random with --seed) (rate, staged, radix)",
    )
    rest.add_argument("--split-inputs", action="store_true", help="feed positive and negative inputs separately")
    rest.add_argument(
        "--weight-grid",
        type=int,
        metavar="BITS",
        help="round weights to 2 to 16 bits per neuron, so that the quickest methods are exact (default: leave them)",
    )


class _InsteadOf(argparse.Action):
    """A flag that is a request of its own: with it, what is needed otherwise is not."""

    def __init__(self, *args: Any, needed: list[argparse.Action], **kwargs: Any) -> None:
        kwargs |= {"nargs": 0, "default": False}
        super().__init__(*args, **kwargs)
        self.needed = needed

    def __call__(self, parser: object, namespace: argparse.Namespace, *_: object) -> None:
        setattr(namespace, self.dest, True)
        for action in self.needed:
            action.required = False


def _switch(group: Any, name: str, what: str) -> None:
    group.add_argument(name, action=argparse.BooleanOptionalAction, help=what)


def _convert(arguments: argparse.Namespace, out: Output) -> int:
    if arguments.presets:
        return _presets(out)
    check_target(arguments.out, overwrite=arguments.overwrite)
    if arguments.report is not None:
        check_page("--report", arguments.report, overwrite=arguments.overwrite)
    check_distinct(
        {"--out": arguments.out, "--json": out.json_path},
        {"the policy": arguments.policy, "--replay": arguments.replay},
        ("--report", arguments.report),
    )
    if arguments.replay is not None and (arguments.env is not None or arguments.size is not None):
        raise UsageError("--env and --size are for recording a replay, which --replay makes unnecessary")
    given: dict[str, Any] = {name: getattr(arguments, name) for name in _SETTINGS}
    target = {name: getattr(arguments, name) for name in ("target_similarity", "budget")}
    needs_replay = True
    try:  # before anything is computed
        check_bits(arguments.weight_grid)
        if set(target.values()) == {None}:
            settings = resolve(arguments.preset, **given)[1]
            _check_values(settings)
            needs_replay = settings.scaling != "model"
        else:
            check_free({"preset": arguments.preset, **given}, arguments.target_similarity)
            if not 0 < arguments.target_similarity < 1:
                raise ValueError(f"target_similarity must be above 0 and below 1, got {arguments.target_similarity!r}")
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    policy, known = read_policy(arguments.policy)
    seed = 1 if arguments.seed is None else arguments.seed
    replay: Replay | None = None
    if arguments.replay is not None:
        replay = Replay.load(arguments.replay)
        out.say(f"replay: {describe_replay(replay)} from {arguments.replay}")
    elif needs_replay:
        env_id = need_env(arguments.env, known, arguments.policy)
        replay = record_replay(env_id, policy, size=arguments.size or 20_000, seed=seed)
        out.say(f"replay: {describe_replay(replay)}, recorded now (seed {seed})")
    others = {name: getattr(arguments, name) for name in ("preset", "split_inputs", "weight_grid")}
    try:
        network = convert(policy, replay, **given, **others, **target, seed=seed)
    except TargetNotReached as error:
        out.say(str(error.choice))
        raise
    network.save(arguments.out)
    _describe(network, policy, replay, out)
    out.say(f"wrote {arguments.out}")
    if arguments.report is not None:
        plays_in = arguments.env or known or (None if replay is None else replay.metadata.get("env_id"))
        out.say(f"wrote {write_conversion_page(network, policy, replay, plays_in, arguments, out)}")
    out.write({"network": str(arguments.out), "sizes": list(network.sizes), "conversion": network.conversion})
    return 0


def _check_values(settings: Preset) -> None:
    """Raise for numbers that the conversion would refuse whatever the policy, and only once there is a replay.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    NeuronSpec(order=settings.order, initial_potential=settings.initial_potential)
    if settings.spike_error is None and settings.method == "digits":
        schedule(  # of the smallest network there is
            [[[1.0]], [[1.0]]],
            settings.timesteps,
            tau=settings.tau,
            first_steps=settings.first_steps,
            kappa=settings.kappa,
            guard=settings.guard,
        )


def _presets(out: Output) -> int:
    """Every preset in plain words, and for machines with all its settings."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    for line in describe_presets():
        out.say(textwrap.fill(line, max(40, width), subsequent_indent="    ", break_on_hyphens=False))
    out.say()
    out.say("`snnfast convert --presets --json -` lists their settings")
    out.write(
        {
            "default": DEFAULT_PRESET,
            "presets": {
                name: {
                    **dataclasses.asdict(ABOUT[name]),
                    "steps": steps_in_words(preset),
                    "settings": dataclasses.asdict(preset),
                }
                for name, preset in PRESETS.items()
            },
        }
    )
    return 0


def _describe(network: SpikingNetwork, policy: nn.Module, replay: Replay | None, out: Output) -> None:
    """What the network is, and what it does on the states that it was made from."""
    made = network.conversion
    if "choice" in made:
        out.say(str(Choice.from_dict(made["choice"])))
    out.say(f"preset {made['preset']}: {_settings_in_words(made['settings'])}")
    for number, scale in enumerate(made["scales"], start=1):
        values = scale if isinstance(scale, list) else [scale]
        span = f"{values[0]:.4g}" if len(values) == 1 else f"{min(values):.4g} to {max(values):.4g}, one per neuron"
        out.say(f"  layer {number}: {network.sizes[number]} neurons, activation scale {span}")
    tuned = made["calibration"]
    if tuned is not None and tuned["kind"] == "qcfs":
        out.say(
            f"  trained on: {tuned['after']:.2%} of the decisions on states kept apart are the original's, "
            f"{tuned['before']:.2%} were before"
        )
    grid = made["weight_grid"]
    if grid is not None:
        out.say(f"  weights on a grid of {grid['bits']} bits: moved by {max(grid['largest_change']):.2g} at most")
    if replay is not None:
        found = HeldOut(policy, replay).ask(network)
        exits = "" if network.spec.early_exit is None else f" on average, {found.steps.max():.0f} at most"
        out.say(f"  {found.equal.mean():.2%} of the replay's decisions are the original's; `snnfast evaluate` plays")
        out.say(
            f"  a decision takes {found.steps.mean():.4g} steps{exits}, and {sum(found.spikes_per_layer):.1f} spikes"
        )
        if found.certified is not None:
            out.say(f"  {found.certified.mean():.2%} of the decisions are certified")


def _settings_in_words(settings: Mapping[str, Any]) -> str:
    """Those that mean something in this conversion."""
    return ", ".join(f"{name} {_word(value)}" for name, value in in_use(settings).items())


def _word(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
