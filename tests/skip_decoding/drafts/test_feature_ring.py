# SPDX-License-Identifier: Apache-2.0
"""The last features of each sequence are those that a list of all would give, and no more are kept."""

import torch

from genaccel.skip_decoding.drafts.feature_ring import FeatureRing


def test_ragged_sequences_keep_their_own_last_features() -> None:
    generator = torch.Generator().manual_seed(0)
    length, ring = 5, None
    seen: list[list[torch.Tensor]] = [[], [], []]
    for width in (2, 1, 3, 4, 2):
        features = torch.randn(3, width, 2, generator=generator)
        counts = torch.randint(1, width + 1, (3,), generator=generator)
        if ring is None:
            # A prompt, whose padding is on the left.
            for row in range(3):
                seen[row] += list(features[row, width - int(counts[row]) :])
            ring = FeatureRing(features, counts, length)
        else:
            for row in range(3):
                seen[row] += list(features[row, : int(counts[row])])
            ring.append(features, counts)
        assert ring._features.shape[1] <= length
        for older in (0, 2):
            wanted = torch.tensor([1, 2, 3])
            found = ring.last(wanted, 3, older=older)
            for row, number in enumerate(wanted.tolist()):
                kept = seen[row][-length:]
                begin = max(0, len(kept) - older - number)
                end = max(len(kept) - older, 1)
                expected = kept[begin:end] or kept[:1]
                expected += [expected[-1]] * (number - len(expected))
                assert torch.equal(found[row, :number], torch.stack(expected[:number]))
    assert ring is not None
    ring.select(torch.tensor([2]))
    assert torch.equal(ring.last(torch.tensor([1]), 1)[0, 0], seen[2][-1])
