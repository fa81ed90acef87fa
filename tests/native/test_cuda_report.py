"""benchmarks/cuda_report.py reads what ptxas and nvdisasm print."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
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

# A loop over items with a loop of two products within, a division that is called for large numbers,
# and code that was moved behind the end and comes back.
LISTING = """\
.text._Z12splat_kernelIfEvv:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   IADD3 R2, R2, 0x1, RZ ;
        /*0020*/              @P0 BRA `(.L_x_4) ;
        /*0030*/                   MOV R6, 0x1d0 ;
        /*0040*/                   CALL.REL.NOINC `($__internal_0_$__cuda_sm20_div_s64) ;
        /*0050*/                   BRA `(.L_x_4) ;
.L_x_4:
        /*0060*/                   I2F.U32.RP R8, UR4 ;
.L_x_2:
        /*0070*/                   LDG.E R9, desc[UR4][R8.64] ;
        /*0080*/              @!PT LDS RZ, [RZ] ;
        /*0090*/                   FFMA R3, R4, R5, R3 ;
        /*00a0*/                   FFMA R3, R4, R5, R3 ;
        /*00b0*/             @!UP0 BRA `(.L_x_2) ;
.L_x_5:
        /*00c0*/                   STG.E desc[UR4][R2.64], R3 ;
        /*00d0*/                   NOP ;
        /*00e0*/              @!P1 BRA `(.L_x_1) ;
        /*00f0*/                   EXIT ;
.L_x_3:
        /*0100*/                   FADD R3, R3, 1 ;
        /*0110*/                   BRA `(.L_x_5) ;
"""


@pytest.fixture
def report(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("cuda_report")


def test_parse(report):
    assert report.parse(LOG) == [
        report.Usage("_Z1av", "90a", 128, 0, 16),
        report.Usage("_Z1bv", "75", 54, 4224, 0),
    ]


def test_loops_of_a_listing(report):
    (outer,) = report._sass.kernels(LISTING)["_Z12splat_kernelIfEvv"]
    (inner,) = outer.within()
    # Neither what leads to the call nor the empty instruction counts.
    assert dict(outer.opcodes) == {"IADD3": 1, "BRA": 2, "I2F": 1, "STG": 1}
    assert dict(inner.opcodes) == {"LDG": 1, "LDS": 1, "FFMA": 2, "BRA": 1}
    assert outer.issued([3]) == 5 + 3 * 5
    assert outer.holds("FFMA") == 2
    for passes in ([], [1, 1]):
        with pytest.raises(report._sass.CodeError, match="loops"):
            outer.issued(passes)
    assert report._sass.innermost([outer], ["FFMA", "LDG"]) is inner
    assert report._sass.innermost([outer], ["FFMA", "STG"]) is outer
    assert report._sass.innermost([outer], ["HMMA"]) is None


def test_instructions_of_a_unit(report, monkeypatch):
    def count(opcodes, passes):
        works = (report.Work("splat_kernel<float>", "entry", 4, opcodes, passes),)
        monkeypatch.setattr(report, "WORK", works)
        monkeypatch.setattr(report, "readable", lambda names: ["splat_kernel<float>"])
        (found,) = report.counts(LISTING)
        return found.instructions, found.reason

    assert count(("STG",), (3,)) == (5, "")
    assert count(("STG",), ()) == (None, "more loops within than expected")
    assert count(("HMMA",), ()) == (None, "no loop with HMMA")


def test_every_kernel_that_is_counted_is_there(report):
    sources = [path.read_text() for path in report.build.source_dir().rglob("*.cuh")]
    for work in report.WORK:
        name = work.kernel.partition("<")[0]
        assert any(f"void {name}(" in text for text in sources), name
