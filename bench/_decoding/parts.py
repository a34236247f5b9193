# SPDX-License-Identifier: Apache-2.0
"""Results of the parts of a long run in files, so that one that was stopped does not measure them again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genaccel.files.atomic import write_json


@dataclass(frozen=True, slots=True)
class Parts:
    """Results by part.

    Attributes:
        folder: Of the files.
        commit: Of the code; what other code, or code with changes, has measured is measured again.
    """

    folder: Path
    commit: str

    def result(self, name: str, measure: Callable[[], Any]) -> Any:
        """What a part found, JSON-ready, measured now if it is not there."""
        path = self.folder / f"{name}.json"
        is_known = not self.commit.endswith("+") and self.commit != "unknown"
        if is_known and path.is_file():
            kept = json.loads(path.read_text())
            if kept["commit"] == self.commit:
                print(f"{name}: of an earlier run", file=sys.stderr, flush=True)
                return kept["result"]
        begin, before = time.monotonic(), time.process_time()
        result = measure()
        print(
            f"{name}: {time.process_time() - before:.0f} s of CPU time, {time.monotonic() - begin:.0f} s",
            file=sys.stderr,
            flush=True,
        )
        write_json(path, {"commit": self.commit, "result": result}, overwrite=True, parents=True)
        return json.loads(json.dumps(result))
