"""A new device from ten measured networks and the table of another, on real devices: what `profile --from` is worth.

    python benchmarks/onboard.py --out FOLDER [--space SPACE] [--nets 40]

This machine in fp32, one image at a time, is profiled; then int8, 32 images at a time, and all cores are each new once,
told by ten networks and the table of the first. Each is held against networks that it has never seen, measured twice,
as `hwnas validate` does. What is done already in FOLDER is not done again. About ten minutes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from hwnas import workflows

KNOWN = "local:name=fp32"
NEW = {
    "int8": "local:name=int8,precision=int8",
    "batch32": "local:name=batch32,batch=32",
    "cores": "local:name=cores,threads=2",
}


def main() -> None:
    """Profile the known device, onboard the others, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--space", default="mobilenet:size=32")
    parser.add_argument("--nets", type=int, default=40)
    options = parser.parse_args()
    known = options.out / "fp32.json"
    if not known.is_file():
        workflows.profile(options.space, KNOWN, known, resume=True)
    print("| new device | seconds | error it tells | mean error | measured twice | within 10 % | tau |")
    print("|---|---|---|---|---|---|---|")
    for name, device in NEW.items():
        figures = onboarded(options.space, device, known, options.out / name, options.nets)
        print(
            f"| {name} | {figures['onboarding_s']:.0f} | {figures['told_error']:.1%} | {figures['mape']:.1%} | "
            f"{figures['floor_mape']:.1%} | {figures['within_10']:.0%} | {figures['kendall_tau']:.3f} |",
            flush=True,
        )


def onboarded(space: str, device: str, known: Path, out: Path, nets: int) -> dict[str, Any]:
    """The figures of a device that is told by the table `known` and ten networks of its own."""
    table, file, note = out / "table.json", out / "validation.json", out / "onboarding.json"
    if not table.is_file():
        started = time.perf_counter()
        told = workflows.profile(space, device, table, resume=True, earlier=[known])
        figures = {"onboarding_s": time.perf_counter() - started, "told_error": told.told_error}
        note.write_text(json.dumps(figures))
    if not file.is_file():
        workflows.validate(space, table, device, nets, out=file, resume=True)
    return {**json.loads(file.read_text()), **json.loads(note.read_text())}


if __name__ == "__main__":
    main()
