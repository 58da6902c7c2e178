"""``python -m crash``: merges killed before and after every step and at random moments, and merges in little memory."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from . import large
from .scene import KINDS, Scene, Victims

PARTS = ("kills", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m crash", description="Kill merges, and look what is left.")
    parser.add_argument("--moments", type=int, default=200, help="random moments for each kind of output")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", action="append", choices=PARTS, help="this one only")
    parser.add_argument("--folder", type=Path, help="where files are made: up to 28 GB, for the part 'memory'")
    given = parser.parse_args()
    parts = given.part or PARTS
    well = True
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        if "kills" in parts:
            _kill(Path(name), given.moments, random.Random(given.seed))
        if "memory" in parts:
            well = large.check(Path(name))
    sys.exit(0 if well else 1)


def _kill(folder: Path, moments: int, rng: random.Random) -> None:
    with Victims.hired() as victims:
        for kind in KINDS:
            scene = Scene(folder / kind, victims, kind)
            killed = 0
            for number in range(len(scene.steps)):
                for after in (False, True):
                    for had_old in (False, True):
                        scene.clear(with_old=had_old)
                        killed += scene.merge(die_at=number, after=after) < 0
                        scene.assert_whole(had_old=had_old)
            print(f"{kind}: killed {killed} times, before and after each of {len(scene.steps)} steps", flush=True)
            started = time.monotonic()
            scene.merge()
            whole = time.monotonic() - started
            killed = 0
            for number in range(moments):
                had_old = bool(number % 2)
                scene.clear(with_old=had_old)
                killed += scene.merge(kill_after=rng.uniform(0, 1.1 * whole)) < 0
                scene.assert_whole(had_old=had_old)
            print(f"{kind}: killed {killed} times at {moments} random moments of {whole:.2f} s", flush=True)
            killed = 0
            for number in range(moments // 10):
                had_old = bool(number % 2)
                scene.clear(with_old=had_old)
                while scene.merge("b", "--resume", kill_after=rng.uniform(0.2 * whole, 1.3 * whole)) < 0:
                    killed += 1
                    scene.assert_old_or_new(had_old=had_old)
                assert scene.content() == scene.new
                assert [path.name for path in scene.place.iterdir()] == [scene.out.name]
            print(f"{kind}: killed {killed} times, and resumed, until {moments // 10} merges were done", flush=True)


if __name__ == "__main__":
    main()
