"""Work that several processes share comes out as one process alone would have it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deeplab_repro.processes import Processes, processes

_PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from deeplab_repro.processes import processes
with processes() as team:
    mine = [str(i) for i in team.share(range(8))]
    merged = team.merge(mine)
    total = team.sum(np.array([team.rank + 1, 2**40], np.int64))
    team.wait()
    seen = [team.rank, team.count, team.first, mine, merged, total.tolist()]
    Path(sys.argv[1], f"{team.rank}.json").write_text(json.dumps(seen))
"""


def test_alone() -> None:
    with processes() as team:
        assert team == Processes(0, 1)
        assert team.first
        assert team.merge(team.share("abc")) == ["a", "b", "c"]
        np.testing.assert_array_equal(team.sum(np.array([3])), [3])


@pytest.mark.slow
def test_three_processes(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "3", str(program), str(tmp_path)),
        ],
        capture_output=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
    )
    whole = ["0", "1", "2", "3", "4", "5", "6", "7"]
    for rank, share in enumerate((["0", "3", "6"], ["1", "4", "7"], ["2", "5"])):
        seen = json.loads((tmp_path / f"{rank}.json").read_text())
        assert seen == [rank, 3, rank == 0, share, whole, [6, 3 * 2**40]]
