# SPDX-License-Identifier: Apache-2.0
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench.readme_tables import main, redraw

PAGE = """Before.

<!-- table: results.json; columns: name, speed as times .1f; where: part=a -->
old
<!-- /table -->

After <!-- table: missing.json; columns: name -->
<!-- /table -->
"""
ROWS = [
    {"part": "a", "name": "one", "speed": 2.04},
    {"part": "a", "name": "two", "speed": None},
    {"part": "b", "name": "three", "speed": 1.0},
]


def test_tables_are_drawn_from_the_rows_that_are_asked_for(tmp_path):
    record = {"rows": ROWS, "tables": {"other": [{"name": "x", "speed": 1.5}]}}
    (tmp_path / "results.json").write_text(json.dumps(record))
    drawn = redraw(PAGE, tmp_path)
    assert "| name | times |\n| --- | --- |\n| one | 2.0 |\n| two | - |\n<!-- /table -->" in drawn
    assert "Not measured yet: there is no missing.json." in drawn
    assert drawn.startswith("Before.")
    assert redraw(drawn, tmp_path) == drawn
    other = PAGE.replace("; where: part=a", "; of: other")
    assert "| x | 1.5 |" in redraw(other, tmp_path)
    with pytest.raises(ValueError, match="no rows"):
        redraw(PAGE.replace("part=a", "part=c"), tmp_path)


def test_the_readme_shows_what_was_recorded():
    assert main(["--check"]) == 0


def test_a_stale_page_is_told_and_drawn(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("results.json", "also-missing.json"))
    assert main(["--check", str(page)]) == 1
    assert main([str(page)]) == 0
    assert main(["--check", str(page)]) == 0
    assert "drawn anew" in capsys.readouterr().out
