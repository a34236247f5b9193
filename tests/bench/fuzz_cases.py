# SPDX-License-Identifier: Apache-2.0
"""Run by test_fuzz.py as a process of its own: its children are forked, which a test runner with threads is not fit for.

python fuzz_cases.py watch FOLDER     ends of cases that are known to end so, and what was saved
python fuzz_cases.py short FOLDER     ends of some cases of each kind of toy size
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench import fuzz
from bench._fuzz import watch
from bench._fuzz.subject import Subject


def refused():
    raise ValueError("in a sentence")


def silent():
    raise ValueError


def outside():
    raise KeyError("x")


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def leave():
    os._exit(3)


def hang():
    time.sleep(60)


def memory():
    return str(len(bytearray(3 * 2**30)))


def slow():
    begun = time.process_time()
    while time.process_time() - begun < 0.5:
        pass
    return "slow"


ENDS = [lambda: "fine", refused, silent, outside, crash, hang, memory, slow, leave, lambda: "fine"]


class Known(Subject):
    """Cases that end as their numbers say; those before 0 warm a process up."""

    name = "known"
    contract = (ValueError,)

    def make(self, random_state):
        numbers = {watch.random_of("known", n).random(): n for n in range(-2, len(ENDS))}
        return {"number": str(numbers[random_state.random()]).encode(), "link": "nowhere"}

    def run(self, files, random_state):
        number = int(files["number"])
        return "warm" if number < 0 else ENDS[number]()


def watch_known(folder):
    watch.CPU_S = 0.3
    outcomes = list(watch.run_watched(Known, range(len(ENDS)), folder, hang_s=1.0))
    saved = {p.name: (p / "number").read_text() for p in folder.iterdir()}
    return {"outcomes": outcomes, "saved": saved}


def short(folder):
    counts = {"container": 500, "model": 40, "plan": 80, "record": 40, "image": 200}
    campaign = fuzz.Campaign(folder, resume=False)
    for kind, count in counts.items():
        campaign.run(kind, count)
    again = fuzz.Campaign(folder, resume=True)
    assert again.progress == campaign.progress
    return {
        kind: [again.progress[kind].ends, again.progress[kind].failures, again.progress[kind].next]
        for kind in counts
    }


if __name__ == "__main__":
    what, name = sys.argv[1:]
    print(json.dumps({"watch": watch_known, "short": short}[what](Path(name))))
