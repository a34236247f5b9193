# SPDX-License-Identifier: Apache-2.0
import json
import math

import genaccel
from genaccel.eval.metrics import Metric
from genaccel.eval.results import RECORD_VERSION, record, to_json

METRIC = Metric(key="psnr", title="PSNR", unit="dB", higher_is_better=True)


def test_a_record_says_how_it_was_made() -> None:
    found = record(
        "paired", label="mine", settings={"a": 1}, packages=["numpy", "no-such"], mean=1.5
    )
    assert found["genaccel_eval"] == RECORD_VERSION
    assert (found["kind"], found["label"], found["settings"]) == ("paired", "mine", {"a": 1})
    assert found["mean"] == 1.5
    environment = found["environment"]
    assert environment["genaccel"] == genaccel.__version__
    assert environment["no-such"] == "missing"
    assert environment["numpy"][0].isdigit()
    assert {"date", "processor", "python", "torch"} <= environment.keys()


def test_infinities_are_texts_in_json() -> None:
    text = to_json({"a": math.inf, "b": [1.0, math.nan], "c": {"d": -math.inf, "e": "x"}})
    assert json.loads(text) == {
        "a": "Infinity",
        "b": [1.0, None],
        "c": {"d": "-Infinity", "e": "x"},
    }


def test_metrics_are_described() -> None:
    assert METRIC.to_dict() == {
        "key": "psnr",
        "title": "PSNR",
        "higher_is_better": True,
        "unit": "dB",
    }
