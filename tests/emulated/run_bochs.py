# SPDX-License-Identifier: Apache-2.0
"""Run the parity program on a processor with AVX-512 that this machine need not have: Bochs emulates one.

A Linux kernel boots from a CD image whose initial file system holds two static programs; results come back over the
serial port. Nothing needs root. By hand, from the folder ``tests``::

    python -m emulated.run_bochs 300
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from emulated.build import build, build_guest_init

CPU = "corei7_skylake_x"
# Program or file -> the Debian package that has it.
REQUIRED = {
    "bochs": "bochs",
    "/usr/share/bochs/BIOS-bochs-latest": "bochsbios",
    "/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so": "bochs-term",
    "grub-mkrescue": "grub-common",
    "/usr/lib/grub/i386-pc/boot.img": "grub-pc-bin",
    "xorriso": "xorriso",
}
KERNEL_PACKAGE = "linux-image-cloud-amd64"

# clearcpuid: XSAVEC and XSAVES. Bochs 2.7 reports a wrong size for their format; the kernel would answer by switching
#   off AVX and everything above it. XSAVE itself is right.
# The rest only saves time: no ACPI, no second processor, no self-tests, no table of trace events.
KERNEL_OPTIONS = (
    "console=ttyS0,115200 clearcpuid=321,323 mitigations=off acpi=off nosmp tsc=reliable quiet panic=-1 "
    "cryptomgr.notests initcall_blacklist=trace_eval_init"
)
GRUB_CONFIG = """\
serial --unit=0 --speed=115200
terminal_output serial
linux /boot/kernel {options} -- {arguments}
initrd /boot/initrd
boot
"""
# Many emulated instructions per emulated second: fewer timer interrupts per instruction.
BOCHS_CONFIG = f"""\
config_interface: textconfig
display_library: term
cpu: model={CPU}, count=1, ips=50000000, ignore_bad_msrs=1
memory: guest=256, host=256
romimage: file=$BXSHARE/BIOS-bochs-latest
vgaromimage: file=$BXSHARE/VGABIOS-lgpl-latest
clock: sync=none, time0=1700000000
ata0: enabled=1
ata0-master: type=cdrom, path=boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=serial.txt
log: bochs.log
panic: action=fatal
error: action=report
info: action=ignore
debug: action=ignore
"""


class GuestError(RuntimeError):
    """The emulated machine gave no result."""


def find_kernel() -> Path | None:
    """The newest readable kernel in /boot; one for virtual machines if there is any, as it is smaller."""
    kernels = [k for k in Path("/boot").glob("vmlinuz-*") if os.access(k, os.R_OK)]
    numbers = {k: [int(n) for n in re.findall(r"\d+", k.name)] for k in kernels}
    return max(kernels, key=lambda k: ("cloud" in k.name, numbers[k]), default=None)


def missing() -> str:
    """What is missing, as the reason of a skip; empty if nothing is."""
    packages = [package for what, package in REQUIRED.items() if not (shutil.which(what) or Path(what).exists())]
    if find_kernel() is None:
        packages.append(KERNEL_PACKAGE)
    return f"needs {', '.join(packages)} (Debian: apt install {' '.join(packages)})" if packages else ""


def initial_file_system(programs: dict[str, Path]) -> bytes:
    """A cpio archive (format newc) of programs at the root, and the console. Made here: a device needs no root so."""
    archive = bytearray()

    def add(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
        archive.extend(b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0")
        archive.extend(bytes(-len(archive) % 4))
        archive.extend(data + bytes(-len(data) % 4))

    add("dev", 0o040755)
    add("dev/console", 0o020600, device=(5, 1))
    for name, path in programs.items():
        add(name, 0o100755, path.read_bytes())
    add("TRAILER!!!", 0)
    return bytes(archive)


def make_cd(directory: Path, kernel: Path, programs: dict[str, Path], arguments: list[str]) -> None:
    boot = directory / "cd" / "boot"
    (boot / "grub").mkdir(parents=True)
    shutil.copyfile(kernel, boot / "kernel")
    (boot / "initrd").write_bytes(initial_file_system(programs))
    config = GRUB_CONFIG.format(options=KERNEL_OPTIONS, arguments=" ".join(arguments))
    (boot / "grub" / "grub.cfg").write_text(config)
    command = ["grub-mkrescue", "-d", "/usr/lib/grub/i386-pc", "-o", "boot.iso", "cd"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise GuestError(f"grub-mkrescue failed:\n{done.stderr}")


def run_in_bochs(
    program: Path, init: Path, arguments: list[str], directory: Path, *, time_limit: float = 900.0
) -> tuple[int, str]:
    """Boot a machine that runs ``program`` with ``arguments``.

    Args:
        program: a static program.
        init: what :func:`emulated.build.build_guest_init` made.
        arguments: for the program; without spaces.
        directory: an empty one for the CD image, the logs and what came over the serial port.
        time_limit: seconds, the boot included.

    Returns:
        The program's exit status, and all that came over the serial port.

    Raises:
        GuestError: if there is no exit status within the time limit; with the end of the output.
    """
    kernel = find_kernel()
    if kernel is None:
        raise GuestError("no readable kernel in /boot")
    make_cd(directory, kernel, {"init": init, "parity": program}, arguments)
    (directory / "bochsrc").write_text(BOCHS_CONFIG)
    (directory / "commands").write_text("continue\n")
    serial = directory / "serial.txt"
    serial.touch()
    # With a controlling terminal, Bochs ends when this process does, however that comes about.
    command = ["setsid", "--ctty", "bochs", "-q", "-f", "bochsrc"]
    usage = subprocess.run(["bochs", "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if b"-rc " in usage.stdout:
        command += ["-rc", "commands"]  # Debian builds Bochs with its debugger, which waits for a command
    # The display is a terminal, as no package has one that shows nothing: give it one that nobody looks at.
    terminal, side = pty.openpty()
    environment = {**os.environ, "TERM": "vt100"}
    process = subprocess.Popen(command, cwd=directory, stdin=side, stdout=side, stderr=side, env=environment)
    os.close(side)
    screen, text, end = b"", "", time.monotonic() + time_limit
    try:
        while time.monotonic() < end:
            if select.select([terminal], [], [], 0.2)[0]:
                try:
                    screen = (screen + os.read(terminal, 65536))[-4000:]
                except OSError:  # the other side is closed: Bochs has ended
                    break
            text = serial.read_text(errors="replace")
            status = re.search(r"^guest: (exit status|killed by signal) (\d+)\s*$", text, re.MULTILINE)
            if status:
                return int(status.group(2)) * (1 if status.group(1) == "exit status" else -1), text
        raise GuestError(
            f"no result within {time_limit} s; serial port:\n{text[-4000:]}\nscreen:\n{screen.decode(errors='replace')}"
        )
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(terminal)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the parity program in an emulated machine with AVX-512.")
    parser.add_argument("networks", type=int, nargs="?", default=300)
    parser.add_argument("--each", action="store_true", help="one line per network, to find the one that differs")
    parser.add_argument("--time-limit", type=float, default=900.0, help="seconds")
    options = parser.parse_args()
    if missing():
        parser.error(missing())
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        program, init = build(directory / "build"), build_guest_init(directory / "build")
        (directory / "run").mkdir()
        arguments = [*(["--each"] if options.each else []), str(options.networks)]
        start = time.monotonic()
        status, text = run_in_bochs(program, init, arguments, directory / "run", time_limit=options.time_limit)
        print("\n".join(re.findall(r"^(?:PROBLEM|network=|isa=|by_tables=|guest:).*$", text, re.MULTILINE)))
        print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
