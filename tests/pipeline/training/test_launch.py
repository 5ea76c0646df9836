"""What one rank does for all."""

from __future__ import annotations

import subprocess
import sys

import pytest

LED = """
import datetime, os, sys, time
from types import SimpleNamespace
import torch.distributed as dist
from pipeline.training.launch import on_main_process

dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=3))
rank = dist.get_rank()

def say(*words):  # a line in one write: two ranks share the pipe, and an unbuffered print writes its end apart
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def work():
    time.sleep(6)
    if sys.argv[1] == "fails":
        raise ValueError("a mistake")
    say("done by", rank)

try:
    on_main_process(SimpleNamespace(is_main_process=rank == 0, num_processes=2), work)
except ValueError as error:
    say(error)
except SystemExit as error:
    say("left to it with", error.code)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.parametrize(("way", "lines"), [("works", ["done by 0"]), ("fails", ["a mistake", "left to it with 2"])])
def test_ranks_wait_longer_for_preparation_than_for_a_hung_rank(way: str, lines: list[str]) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python"]
    done = subprocess.run(
        [*launch, sys.executable, "-c", LED, way], capture_output=True, text=True, timeout=120, check=True
    )
    assert sorted(done.stdout.splitlines()) == sorted(lines)
