# SPDX-License-Identifier: Apache-2.0
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench_workload import workload
from tiny_dit import build_pipeline, calls, pipeline, sample

__all__ = ["build_pipeline", "calls", "pipeline", "sample", "workload"]
