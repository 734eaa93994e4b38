# SPDX-License-Identifier: Apache-2.0
"""What `make gpu-check` runs on a machine with an NVIDIA device: build, parity, sanitizers, benchmark, a result file.

Needs Python with torch (a CUDA build), gymnasium, safetensors, tqdm, pytest with pytest-timeout, hypothesis, pybind11,
scikit-build-core and cmake, and nvcc and compute-sanitizer; downloads nothing.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
SITE = ROOT / "build" / "gpu-check" / "site"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
#: name, sizes, timesteps, batch, limit in ms for exact and fast
CASES = (
    ("tiny", (4, 16, 16, 2), 100, 65536, 0.120, None),
    ("medium", (8, 256, 256, 4), 100, 4096, 1.5, 0.4),
    ("large", (784, 1200, 1200, 10), 50, 1024, 4.0, 1.2),
)


#: conversion presets of the network with a code, one per kind of code and of exit
PRESETS = ("rate-copies", "rate-early-exit", "staged", "radix-certified", "digits", "digits-certified")


def run(command: list[object], **options: Any) -> subprocess.CompletedProcess[str]:
    print("+", *command, flush=True)
    return subprocess.run([str(c) for c in command], text=True, check=False, **options)


def build(architecture: str) -> dict[str, Any]:
    """A compiler that nobody has tried may warn of what others do not: a failed check, but the others go on."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    for warnings_are_errors in ("ON", "OFF"):
        shutil.rmtree(SITE, ignore_errors=True)
        options = [f"CMAKE_CUDA_ARCHITECTURES={architecture}-real", "SNNFAST_CUDA=ON"]
        options += [f"SNNFAST_WERROR={warnings_are_errors}"]
        defines = [part for o in options for part in ("-C", f"cmake.define.{o}")]
        if run([*command, "--target", SITE, ROOT, *defines]).returncode == 0:
            return {"ok": warnings_are_errors == "ON"}
    raise SystemExit("gpu-check: the build failed")


def parity_suite(architecture: int) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SITE), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", ROOT / "tests" / "test_cuda_device.py"]
    done = run(command, cwd=ROOT, env=environment, capture_output=True)
    print(done.stdout[-6000:], done.stderr[-2000:])
    passed = re.search(r"(\d+) passed", done.stdout)
    # Older devices have no tensor cores for bytes, and skip the tests of those; nothing else may be left out.
    clean = done.returncode == 0 and (architecture < 80 or "skipped" not in done.stdout)
    return {"ok": clean, "passed": int(passed.group(1)) if passed else 0, "networks": 1000}


def sanitizers(architecture: str) -> dict[str, Any]:
    sys.path.insert(0, str(ROOT / "tests"))
    from cuda_host.build import build_for_device

    folder = ROOT / "build" / "gpu-check" / "parity"
    folder.mkdir(parents=True, exist_ok=True)
    program = build_for_device(folder, f"sm_{architecture}")
    results: dict[str, Any] = {}
    done = run([program, 0, 1000], capture_output=True)
    print(done.stdout[-500:], done.stderr[-500:])
    results["parity program"] = {"ok": done.returncode == 0, "said": done.stdout.strip().splitlines()[-1:]}
    for tool in TOOLS:
        done = run(["compute-sanitizer", "--tool", tool, "--error-exitcode", 9, program, 0, 40], capture_output=True)
        said = [line for line in done.stdout.splitlines() if "SUMMARY" in line or line.startswith("networks")]
        if done.returncode != 0:
            print(done.stdout[-4000:])
        print(tool, *said, sep="\n  ")
        results[tool] = {"ok": done.returncode == 0, "said": said}
    return results


def time_ms(call: Callable[[int], object], repeats: int = 60) -> dict[str, float]:
    """Median and extremes over single calls, each between two CUDA events; ``call`` gets the number of the repeat."""
    import torch

    for i in range(5):
        call(i)
    torch.cuda.synchronize()
    times = []
    for i in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call(i)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return {"median": statistics.median(times), "min": min(times), "max": max(times)}


def ceilings() -> dict[str, float]:
    """What this device does at most, measured: multiply-adds in matrix products of fp32 and of bytes, bytes copied."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    n = 8192
    a, b = torch.randn(n, n, device="cuda"), torch.randn(n, n, device="cuda")
    product = time_ms(lambda _: torch.mm(a, b), 5)["median"]
    c, d = (torch.randint(-128, 128, (n, n), dtype=torch.int8, device="cuda") for _ in range(2))
    bytes_product = time_ms(lambda _: torch._int_mm(c, d.t()), 5)["median"]
    source = torch.randn(1 << 29, device="cuda")
    target = torch.empty_like(source)
    copied = time_ms(lambda _: target.copy_(source), 5)["median"]
    return {
        "fp32_gmac_per_s": n**3 / product / 1e6,
        "int8_gmac_per_s": n**3 / bytes_product / 1e6,
        "copy_gb_per_s": 2 * 4 * (1 << 29) / copied / 1e6,
    }


def naive(weights: list[Any], biases: list[Any], timesteps: int, x: Any) -> Any:
    """The network as one writes it first in torch, on the device."""
    import torch

    potentials = [torch.zeros(x.shape[0], w.shape[0], device=x.device) for w in weights]
    for _ in range(timesteps):
        spikes = x
        for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
            potentials[i] = potentials[i] + (torch.matmul(spikes, w.t()) + b)
            if i < len(weights) - 1:
                spikes = (potentials[i] >= 1.0).float()
                potentials[i] = potentials[i] - spikes
    return potentials[-1]


def kernel_times(call: Callable[[], object]) -> list[dict[str, Any]]:
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        call()
        torch.cuda.synchronize()
    found = []
    for event in recorded.events():
        name = re.search(r"(\w+_kernel)(<.*?>)?\(", event.name)
        if name and event.device_time > 0:
            found.append({"kernel": name.group(1), "us": round(event.device_time, 1)})
    return found


def with_shares(
    kernels: list[dict[str, Any]], sizes: tuple[int, ...], timesteps: int, batch: int, rates: list[float],
    limits: dict[str, float],
) -> list[dict[str, Any]]:  # fmt: skip
    """What each kernel did, against what the device does at most: kernels come in the order of the layers.

    Of fp32 every addition, multiplication and comparison counts as one, as a fused multiply-add does in the ceiling.
    """
    decisions, layer = batch * timesteps, 0
    for kernel in kernels:
        name, fp32, int8, moved = kernel["kernel"], 0.0, 0.0, 0.0
        if name == "tiny_kernel":
            products = sum(a * b for a, b in itertools.pairwise(sizes[1:]))
            fp32 = decisions * (products + 3 * sum(sizes[1:-1]) + sizes[-1])
        elif name == "current_kernel":
            fp32 = 2 * batch * sizes[0] * sizes[1]
        elif name == "compact_kernel":
            moved = decisions * (sizes[layer] / 8 + 2 * rates[layer - 1] * sizes[layer])
        else:
            neurons = decisions * sizes[layer + 1]
            if name == "layer_kernel":
                fp32 = neurons * (3 + (rates[layer - 1] * sizes[layer] if layer else 0))
            else:
                int8 = 3 * neurons * sizes[layer]
            layer += 1
        of = (
            ("fp32_gmac_per_s", fp32, "fp32 operations"), ("int8_gmac_per_s", int8, "int8 products"),
            ("copy_gb_per_s", moved, "bytes"),
        )  # fmt: skip
        for ceiling, amount, what in of:
            if amount:
                kernel["share_of_ceiling"] = round(amount / kernel["us"] / 1e3 / limits[ceiling], 3)
                kernel["ceiling"] = what
    return kernels


def benchmark() -> dict[str, Any]:
    import torch

    import snnfast as sf
    from snnfast import backends
    from snnfast.bench.workloads import hidden_rates, make_workload

    def rebuilt(network: sf.SpikingNetwork, exact: bool) -> sf.SpikingNetwork:
        spec = network.spec
        return sf.SpikingNetwork(spec.weights, spec.biases, spec.neuron, spec.timesteps, backend="cuda", exact=exact)

    limits = ceilings()
    cases = []
    for name, sizes, timesteps, batch, exact_ms, fast_ms in CASES:
        work = make_workload(name, sizes, timesteps)
        xs = [torch.randn(batch, sizes[0], generator=torch.Generator().manual_seed(i)).cuda() for i in range(5)]
        weights = [w.cuda() for w in work.spiking.weights]
        biases = [b.cuda() for b in work.spiking.biases if b is not None]
        rival = time_ms(lambda i, w=weights, b=biases, t=timesteps, a=xs: naive(w, b, t, a[i % 5]), 5)
        rates = hidden_rates(work.spiking, xs[0][:256].cpu())
        macs = batch * (sizes[0] * sizes[1] + timesteps * sum(a * b for a, b in itertools.pairwise(sizes[1:])))
        exact_output = None
        for contract, bar in (("exact", exact_ms), ("fast", fast_ms)):
            if bar is None:
                continue
            network = rebuilt(work.spiking, exact=contract == "exact")
            output = network(xs[0]).cpu()
            exact_output = output if exact_output is None else exact_output
            rule = {"exact": True} if contract == "exact" else {"exact": False, "method": "slices"}
            want = backends.CpuExecutable(work.spiking.spec, **rule).run(xs[0].cpu(), 0)
            graphs = []
            for x in xs:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    network(x)
                graphs.append(graph)
            call = time_ms(lambda i, n=network, a=xs: n(a[i % 5]))
            replay = time_ms(lambda i, g=graphs: g[i % 5].replay())
            kernels = kernel_times(lambda n=network, a=xs: n(a[0]))
            cases.append(
                {
                    "name": f"{name} {contract}", "sizes": sizes, "timesteps": timesteps, "batch": batch,
                    "rates": rates,
                    "method": network.method()["method"],
                    "same_bits_as_cpu": bool(torch.equal(output.view(torch.int32), want.view(torch.int32))),
                    "decisions_unlike_exact": int((output.argmax(1) != exact_output.argmax(1)).sum()),
                    "call_ms": call, "graph_ms": replay, "naive_torch_ms": rival,
                    "speed_up_over_naive_torch": rival["median"] / call["median"],
                    "bar_ms": bar, "bar_met_by_call": call["median"] <= bar,
                    "bar_met_by_graph": replay["median"] <= bar,
                    "dense_equivalent_gmac_per_s": macs / replay["median"] / 1e6,
                    "dense_equivalent_share_of_fp32_ceiling": macs / replay["median"] / 1e6 / limits["fp32_gmac_per_s"],
                    "kernels": with_shares(kernels, sizes, timesteps, batch, rates, limits),
                }
            )  # fmt: skip
            print(json.dumps(cases[-1]), flush=True)
    facts = sf.info()
    kept = ("snnfast", "processor", "cores", "threads", "isa", "compiler", "libraries")
    return {"ceilings": limits, "cases": cases, "snnfast": {name: facts[name] for name in kept}}


def presets() -> list[dict[str, Any]]:
    """Converted networks with a code: the bits of the CPU backend, and how long a call takes."""
    import torch

    from snnfast.bench import methods
    from snnfast.conversion import convert

    found = []
    for case in methods.cases(65536):
        x = case.batch.cuda()
        for preset in PRESETS:
            cpu = convert(case.policy, case.states, preset=preset)
            network = cpu.to("cuda")
            same = bool(torch.equal(network(x).cpu().view(torch.int32), cpu(case.batch).view(torch.int32)))
            call = time_ms(lambda _, n=network, a=x: n(a), 20)
            found.append(
                {
                    "name": f"{preset} {case.name}", "batch": len(x), "method": network.method()["method"],
                    "same_bits_as_cpu": same, "call_ms": call,
                }
            )  # fmt: skip
            print(json.dumps(found[-1]), flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the result file")
    parser.add_argument("--commit", help="the commit that is checked, where there is no git to ask")
    arguments = parser.parse_args()

    import torch

    if not torch.cuda.is_available():
        print("gpu-check: torch finds no CUDA device here", file=sys.stderr)
        return 2
    git = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
    commit = arguments.commit or subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    if not commit:
        parser.error("--commit is needed: git does not tell which one this is")
    name = torch.cuda.get_device_name(0)
    architecture = "{}{}".format(*torch.cuda.get_device_capability(0))
    started = time.time()
    built = build(architecture)
    sys.path.insert(0, str(SITE))
    checks = {
        "build without warnings": built,
        "parity suite": parity_suite(int(architecture)),
        **sanitizers(architecture),
    }
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    result = {
        "device": name,
        "commit": commit,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "driver": subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip(),
        "checks": checks,
        **benchmark(),
        "presets": presets(),
        "seconds": round(time.time() - started),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    gpu = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-").removeprefix("nvidia-")
    path = arguments.out / f"cuda-{gpu}-{commit}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    failed = [check for check, outcome in checks.items() if not outcome["ok"]]
    failed += [case["name"] for case in (*result["cases"], *result["presets"]) if not case["same_bits_as_cpu"]]
    for case in result["cases"]:
        print(
            f"{case['name']:12} call {case['call_ms']['median']:.3f} ms, graph {case['graph_ms']['median']:.3f} ms, "
            f"bar {case['bar_ms']} ms, {case['speed_up_over_naive_torch']:.0f}x naive torch, "
            f"{case['dense_equivalent_share_of_fp32_ceiling']:.0%} of the fp32 ceiling if it were dense"
        )
        for kernel in case["kernels"]:
            share = f"{kernel['share_of_ceiling']:.0%} of the ceiling of {kernel['ceiling']}"
            print(f"    {kernel['kernel']:22} {kernel['us']:8.1f} us, {share}")
    for case in result["presets"]:
        print(f"{case['name']:28} batch {case['batch']:6} call {case['call_ms']['median']:.3f} ms")
    print(f"gpu-check: {'FAILED: ' + ', '.join(failed) if failed else 'all checks passed'}; {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
