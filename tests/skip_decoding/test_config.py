# SPDX-License-Identifier: Apache-2.0
"""The config of speculative decoding, and the flag's values."""

from typing import Any

import pytest
import torch

from genaccel.acceleration import config_of_flag
from genaccel.skip_decoding import SkipDecodingConfig

WRONG = (
    ({"acceptance": "greedy"}, "acceptance must be one of exact, lantern, ensemble, got 'greedy'"),
    ({"skip": "always"}, "skip must be one of none, uniform, dynamic, got 'always'"),
    ({"tree": 0}, 'tree must be "auto", a length of at least 1'),
    ({"tree": ()}, 'tree must be "auto", a length of at least 1'),
    ({"tree": (2, 0)}, 'tree must be "auto", a length of at least 1'),
    ({"tree": "deep"}, 'tree must be "auto", a length of at least 1'),
    ({"tree": True}, 'tree must be "auto", a length of at least 1'),
    ({"relaxed_topk": 0}, "relaxed_topk must be at least 1, got 0"),
    ({"relaxed_delta": float("nan")}, "relaxed_delta must be at least 0 and finite, got nan"),
    ({"skip_interval": 1}, "skip_interval must be at least 2, got 1"),
    ({"skip_similarity": 0}, r"skip_similarity must be in \(0, 1\], got 0"),
    ({"assistant_ensemble_weight": 1}, r"assistant_ensemble_weight must be in \(0, 1\), got 1"),
    ({"skip": "uniform", "max_unverified": 1.5}, r"max_unverified must be in \(0, 1\], got 1.5"),
    ({"skip": "uniform", "rollback_below": 2}, r"rollback_below must be in \(0, 1\], got 2"),
    ({"max_unverified": 0.3}, "max_unverified is of skipped rounds"),
    ({"rollback_below": 0.3}, "rollback_below is of skipped rounds"),
    ({"max_nll_gap": 0.3}, "neither is asked for"),
    ({"skip": "uniform", "max_nll_gap": 0}, "max_nll_gap must be above 0 and finite, got 0"),
    ({"row_length": -1}, "row_length must be at least 0 or None, got -1"),
    ({"seed": 1.5}, "seed must be an integer or None, got 1.5"),
    ({"drafter": None, "skip": "uniform"}, "without a drafter there are no guesses"),
    ({"tree": 1025}, "tree may have 1024 guesses at most, and 1025 has 1025"),
    ({"tree": (32, 32)}, r"tree may have 1024 guesses at most, and \(32, 32\) has 1056"),
    ({"relaxed_delta": "a"}, "relaxed_delta must be a number, got 'a'"),
    ({"skip": "uniform", "max_unverified": "a"}, "max_unverified must be a number, got 'a'"),
    ({"skip": "dynamic", "tree": 4}, "a chain has one: give widths such as"),
    ({"skip": "dynamic", "tree": (1, 1)}, "a chain has one: give widths such as"),
    ({"codebook": [[1.0]] * 9}, "codebook must be a tensor"),
    ({"codebook": torch.zeros(9)}, "codebook must be a tensor"),
    ({"codebook": torch.full((9, 2), float("nan"))}, "codebook must be a tensor"),
    ({"codebook": torch.zeros(2, 4)}, "with K at least 3"),
    ({"acceptance": "ensemble", "is_stochastic": True}, "is_stochastic goes without"),
)


@pytest.mark.parametrize(("values", "words"), WRONG)
def test_wrong_values_are_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SkipDecodingConfig(**values)


def test_configs_are_compared_by_value() -> None:
    codebook = torch.zeros(3, 2)
    config = SkipDecodingConfig(tree=[2, 1], codebook=codebook)  # type: ignore[arg-type]
    assert config.tree == (2, 1)
    assert config == SkipDecodingConfig(tree=(2, 1), codebook=codebook)
    assert config != SkipDecodingConfig(tree=(2, 1), codebook=codebook.clone())
    assert config != SkipDecodingConfig(tree=(2, 1))
    assert config != "vvs"


def test_flags_are_read() -> None:
    assert config_of_flag("vvs") == config_of_flag("vvs:exact") == SkipDecodingConfig()
    assert config_of_flag("vvs:lantern").acceptance == "lantern"
    assert config_of_flag("vvs:uniform").skip == "uniform"
    assert config_of_flag("vvs:dynamic").needs_codebook
    config = SkipDecodingConfig(tree=3)
    assert config_of_flag(config) is config
    with pytest.raises(ValueError, match="the values are exact, lantern, uniform, dynamic"):
        config_of_flag("vvs:fast")
