"""Maps that were saved in part are named; see `deeplab_repro.parity.traps.saving`."""

from __future__ import annotations

import pytest
import torch.nn.functional as F

from tests.parity.spoil import (
    CONVOLUTION,
    POOLING,
    SECOND,
    blobs_of,
    diagnose,
    expect,
    picture,
    small_net,
)

pytestmark = pytest.mark.slow  # each runs networks and searches them, half a second

# Rows may be missing because they were not computed or because they were not saved.
TWO_BY_TWO = POOLING.replace("kernel_size: 3", "kernel_size: 2").replace("pad: 1", "pad: 0")
READER = SECOND.replace('"conv"', '"pool"')
PARTS = {
    "last row": lambda y: y[:, :, :-1],
    "first row": lambda y: y[:, :, 1:],
    "last row and column": lambda y: y[:, :, :-1, :-1],
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("blob", ["conv", "pool"])
def test_a_map_cut_off_when_it_was_saved(blob, part, tmp_path):
    """What reads the blob has seen all of it, so that its layer is not at fault."""
    files = small_net(tmp_path, CONVOLUTION + TWO_BY_TWO + READER)
    blobs = blobs_of(files, picture(1, 33, 33))
    blobs[blob] = PARTS[part](blobs[blob])
    expect(diagnose(files, blobs, tmp_path), "cut_off", blob)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("blob", ["conv", "pool"])
def test_a_cut_map_that_nothing_reads_proves_nothing(blob, part, tmp_path):
    files = small_net(tmp_path, CONVOLUTION + (TWO_BY_TWO if blob == "pool" else ""))
    blobs = blobs_of(files, picture(1, 33, 33))
    blobs[blob] = PARTS[part](blobs[blob])
    (cause,) = diagnose(files, blobs, tmp_path)
    assert cause.sure == "likely"
    assert cause.trap.id != "pooling_of_zeros"  # there is no padding that could have been zeros


def test_pools_rounded_down_are_proved_by_what_reads_them(tmp_path):
    files = small_net(tmp_path, CONVOLUTION + TWO_BY_TWO + READER)
    wrong = ("pool", lambda m, x: F.max_pool2d(x, 2, 2))
    expect(diagnose(files, blobs_of(files, picture(1, 33, 33), wrong), tmp_path), "floor_pooling")
