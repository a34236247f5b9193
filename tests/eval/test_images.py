# SPDX-License-Identifier: Apache-2.0
from genaccel.eval.images import decoding_workers


def test_few_pairs_need_no_workers() -> None:
    assert decoding_workers(10) == 0
    assert 1 <= decoding_workers(1000) <= 8
