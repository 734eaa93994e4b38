# SPDX-License-Identifier: Apache-2.0
"""``snnfast train`` and ``snnfast record``: a policy learns, and shows what it sees."""

from __future__ import annotations

import argparse
from pathlib import Path

from snnfast import plots
from snnfast.cli.common import (
    SHIPPED,
    Output,
    Subparsers,
    UsageError,
    add_command,
    add_imports,
    check_distinct,
    check_plot,
    check_target,
    count,
    describe_replay,
    need_env,
    number,
    read_policy,
    steps_or_none,
)
from snnfast.learning import make_policy, record_replay, save_policy, train_policy_gradient
from snnfast.learning.environments import interface, make_environment


def add(subparsers: Subparsers) -> None:
    """Add the two commands."""
    parser = add_command(
        subparsers,
        "train",
        _train,
        summary="train a policy by policy gradient (REINFORCE)",
        description=(
            "Train a policy (Linear and ReLU layers) until the environment counts as solved and the policy also holds\n"
            "greedily. The state of training is kept beside FILE and survives being killed: continue with --resume."
        ),
        example="snnfast train CartPole-v1 --out policy.safetensors --csv training.csv",
    )
    parser.add_argument("env", help="Gymnasium environment with discrete actions, such as CartPole-v1")
    add_imports(parser)
    parser.add_argument("--out", required=True, metavar="FILE", type=Path, help="file for the trained policy")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--resume", action="store_true", help="continue a training run that was stopped")
    what.add_argument("--overwrite", action="store_true", help="replace FILE, or the state of a stopped run")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write the learning curve, one line per episode")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="write a picture of the learning curve")
    training = parser.add_argument_group("training")
    training.add_argument(
        "--hidden", type=_sizes, default=[16, 16], metavar="N,N", help="neurons of the hidden layers (default: 16,16)"
    )
    training.add_argument(
        "--max-steps",
        type=count,
        default=200,
        metavar="N",
        help="limit of an episode, in place of the environment's own, which may be shorter or longer (default: 200)",
    )
    training.add_argument(
        "--max-episodes", type=count, default=3000, metavar="N", help="give up after so many (default: 3000)"
    )
    training.add_argument("--learning-rate", type=number(0), default=0.01, metavar="X", help="of Adam (default: 0.01)")
    training.add_argument("--gamma", type=number(0, 1), default=0.99, metavar="X", help="discount (default: 0.99)")
    training.add_argument(
        "--threshold", type=number(), metavar="X", help="mean return that counts as solved (default: Gymnasium's)"
    )

    parser = add_command(
        subparsers,
        "record",
        _record,
        summary="record a replay memory of the greedy policy",
        description="Let a policy act greedily and keep its states, actions and outputs, whole episodes in order.",
        example="snnfast record cartpole --out replay.safetensors --size 20000",
    )
    parser.add_argument("policy", help="policy file, or the word 'cartpole' for the one that comes with snnfast")
    parser.add_argument("--out", required=True, metavar="FILE", type=Path, help="file for the replay memory")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    parser.add_argument("--env", metavar="ID", help="environment (default: the one in the policy file)")
    add_imports(parser)
    parser.add_argument("--size", type=count, default=20_000, metavar="N", help="states to record (default: 20000)")
    parser.add_argument(
        "--max-steps",
        type=steps_or_none,
        default=500,
        metavar="N",
        help="limit of an episode, in place of the environment's own, which may be shorter or longer; 'none' keeps "
        "that one (default: 500)",
    )


def _sizes(text: str) -> list[int]:
    return [count(part) for part in text.split(",")]


def _train(arguments: argparse.Namespace, out: Output) -> int:
    target: Path = arguments.out
    state = target.with_name(f"{target.stem}.training.safetensors")
    env_id = SHIPPED.get(arguments.env, arguments.env)
    seed = 1 if arguments.seed is None else arguments.seed
    if arguments.resume and target.exists() and not state.exists():
        raise UsageError(f"{target} is finished: there is nothing to resume (--overwrite trains anew)")
    check_target(target, overwrite=arguments.overwrite or arguments.resume)
    if state.exists() and not (arguments.resume or arguments.overwrite):
        raise UsageError(f"{state} holds a training run that was stopped: add --resume to continue it, or --overwrite")
    check_target(state, overwrite=True)  # its name is the longer one
    for path in (arguments.csv, arguments.plot):
        if path is not None:
            check_target(path, overwrite=True)
    check_plot(arguments.plot)
    check_distinct(
        {
            "--out": target,
            "the state of training": state,
            "--csv": arguments.csv,
            "--plot": arguments.plot,
            "--json": out.json_path,
        }
    )

    environment = make_environment(env_id, arguments.max_steps)
    spaces = interface(env_id, environment)
    environment.close()
    policy = make_policy([spaces.n_in, *arguments.hidden, spaces.n_actions], seed=seed)
    if arguments.overwrite:
        state.unlink(missing_ok=True)
    resume = arguments.resume and state.exists()
    notes = []
    if arguments.resume and not resume:  # the name may be a slip of the pen: said before training, not after
        notes.append(f"nothing to resume at {state}: training starts from the beginning")
        out.say(notes[0])
    try:
        result = train_policy_gradient(
            env_id,
            policy,
            seed=seed,
            max_steps=arguments.max_steps,
            max_episodes=arguments.max_episodes,
            gamma=arguments.gamma,
            learning_rate=arguments.learning_rate,
            threshold=arguments.threshold,
            checkpoint_path=state,
            resume=resume,
        )
    except KeyboardInterrupt:
        if state.exists():  # it does not in the first moment
            out.say(f"stopped; the state of training is in {state}: continue with --resume")
        else:
            out.say("stopped before training began")
        raise
    for message in result.messages:
        out.say(message)
    if arguments.csv is not None:
        result.save_csv(arguments.csv)
        out.say(f"wrote {arguments.csv}")
    if arguments.plot is not None:
        plots.training_curve(
            result.returns,
            result.means,
            result.solved_at,
            arguments.plot,
            durations=result.durations,
            threshold=result.settings["threshold"],
        )
        out.say(f"wrote {arguments.plot}")
    summary = {
        "env_id": env_id,
        "seed": seed,
        "episodes": result.episodes,
        "solved_at": result.solved_at,
        "extra_episodes": result.extra_episodes,
        "greedy_return_at_solved": result.greedy_return_at_solved,
        "greedy_return": result.greedy_return,
        "holds": result.holds,
    }
    save_policy(policy, target, {**summary, "training": result.settings})
    out.say(f"wrote {target}")
    out.write({**summary, "policy": str(target), "seconds": result.seconds, "messages": [*notes, *result.messages]})
    if result.solved and result.holds is not False:
        state.unlink(missing_ok=True)
        return 0
    out.say(f"not good enough yet: continue with --resume and a larger --max-episodes (state in {state})")
    return 1


def _record(arguments: argparse.Namespace, out: Output) -> int:
    check_target(arguments.out, overwrite=arguments.overwrite)
    check_distinct({"--out": arguments.out, "--json": out.json_path}, {"the policy": arguments.policy})
    policy, known = read_policy(arguments.policy)
    env_id = need_env(arguments.env, known, arguments.policy)
    seed = 1 if arguments.seed is None else arguments.seed
    replay = record_replay(env_id, policy, size=arguments.size, max_steps=arguments.max_steps, seed=seed)
    replay.save(arguments.out)
    out.say(f"{describe_replay(replay)}, seed {seed}")
    out.say(f"wrote {arguments.out}")
    out.write({"replay": str(arguments.out), "states": len(replay.observations), "metadata": dict(replay.metadata)})
    return 0
