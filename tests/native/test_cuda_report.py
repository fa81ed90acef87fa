"""benchmarks/cuda_report.py reads what ptxas prints."""

import importlib.util
import sys
from pathlib import Path

LOG = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z1av' for 'sm_90a'
ptxas info    : Function properties for _Z1av
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 8 bytes cumulative stack size
ptxas info    : Compiling entry function '_Z1bv' for 'sm_75'
ptxas info    : Function properties for _Z1bv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 54 registers, used 1 barriers, 4224 bytes smem, 400 bytes cmem[0]
"""


def test_parse():
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "cuda_report.py"
    spec = importlib.util.spec_from_file_location("cuda_report", path)
    report = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = report  # dataclasses look their module up
    spec.loader.exec_module(report)
    assert report.parse(LOG) == [
        report.Usage("_Z1av", "90a", 128, 0, 16),
        report.Usage("_Z1bv", "75", 54, 4224, 0),
    ]
