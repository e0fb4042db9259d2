"""Kill a training repeatedly, resume it each time, and compare with an uninterrupted one.

Sends SIGKILL, which no program can catch, at random moments: during start-up, training, writing of
checkpoints (after every iteration here), evaluation, or publication of the results. About five
minutes on two cores:

    python examples/trust/kill_and_resume.py
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

TRAIN = [sys.executable, "-m", "ipvae_snn.cli", "train", "--quiet"]
RECIPE = [
    "--data", "digits", "--iterations", "5000", "--latents", "64", "--steps", "8",
    "--batch", "20", "--checkpoint-every", "1", "--eval-steps", "30", "--samples", "40",
]  # fmt: skip
RESULTS = ("history.csv", "metrics.json")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    arguments.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = arguments.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = Path(folder) / "alone", Path(folder) / "killed"
        started = time.monotonic()
        subprocess.run([*TRAIN, *RECIPE, "--out", str(alone)], check=True, capture_output=True)
        seconds_alone = time.monotonic() - started
        print(f"uninterrupted: {seconds_alone:.1f} s")
        rows: list[dict[str, object]] = []
        while not (killed / "model.pt").is_file():
            last = len(rows) == options.kills
            rows += _attempt(killed, None if last else moments.uniform(1.0, 6.0))
        same = _same_weights(alone, killed)
        same.update({n: (alone / n).read_bytes() == (killed / n).read_bytes() for n in RESULTS})
        left = sorted(p.name for p in killed.iterdir())
        others = sorted(p.name for p in Path(folder).iterdir())
    if len(rows) < options.kills:
        sys.exit(f"training was complete after {len(rows)} kills: increase the iterations")
    print(f"{len(rows)} kills, {sum(bool(r['writing']) for r in rows)} of them during a write")
    print(f"bit-identical: {same}; left in the folder: {left}")
    result = {"seconds_alone": seconds_alone, "kills": rows, "bit_identical": same, "left": left}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    if not all(same.values()) or others != ["alone", "killed"]:
        sys.exit(f"results differ, or files were left behind: {others}")


def _attempt(run: Path, seconds: float | None) -> list[dict[str, object]]:
    """Start or resume, and kill after so many seconds; a row about the kill, if there was one."""
    begun, before = (run / "config.json").is_file(), _partial_files(run)
    options = ["--resume", str(run)] if begun else [*RECIPE, "--out", str(run)]
    with subprocess.Popen(
        [*TRAIN, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            _, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            writing, iteration = bool(_partial_files(run) - before), _iteration(run)
            during = ", during a write" if writing else ""
            print(f"killed after {seconds:4.1f} s, at iteration {iteration}{during}", flush=True)
            return [{"after": seconds, "iteration": iteration, "writing": writing}]
    if process.returncode:
        sys.exit(f"training failed: {errors}")
    return []


def _partial_files(run: Path) -> set[str]:
    """Temporary files and folders of writes in progress."""
    return {path.name for path in run.glob(".*.part")}


def _iteration(run: Path) -> int | None:
    """Iteration of the checkpoint; ``None`` before the first one."""
    path = run / "checkpoint.pt"
    return torch.load(path, weights_only=True)["iteration"] if path.is_file() else None


def _same_weights(first: Path, second: Path) -> dict[str, bool]:
    a, b = (torch.load(run / "model.pt", weights_only=True)["weights"] for run in (first, second))
    return {name: torch.equal(a[name], b[name]) for name in a}


if __name__ == "__main__":
    main()
