# SPDX-License-Identifier: Apache-2.0
"""Decode files that claim much under guards; run by test_decoder_budget.py as a process of its own.

    python decode_guarded.py MODEL

Reads JSON lines from standard input, each with the file in hexadecimal ("data") and the options of ``ImageCodec.decode``;
writes one for each: how it ended, CPU seconds, and MiB by which the peak of resident memory grew. The address space
cannot grow by more than 1 GiB.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from fuzz_decoder import limit_memory

from genaccel.codec import ImageCodec
from genaccel.errors import BitstreamError, LimitExceededError


def memory_mib(name):
    """A figure of /proc/self/status in MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if name in line)
    return int(line.split()[1]) / 1024


def main(model):
    torch.set_num_threads(1)
    codec = ImageCodec.from_pretrained(model)
    limit_memory()
    for line in sys.stdin:
        case = json.loads(line)
        data = bytes.fromhex(case.pop("data"))
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = memory_mib("VmRSS")
        start = time.process_time()
        try:
            ending = str(list(codec.decode(data, **case).shape))
        except (BitstreamError, LimitExceededError) as error:
            ending = f"{type(error).__name__}: {error}"
        seconds = time.process_time() - start
        growth = memory_mib("VmHWM") - before
        print(json.dumps({"ending": ending, "cpu_seconds": seconds, "mib": growth}), flush=True)


if __name__ == "__main__":
    assert resource.getrlimit(resource.RLIMIT_AS)
    main(sys.argv[1])
