"""Coverage-guided fuzzing of one reader; needs ``pip install atheris``.

    python tests/fuzz/atheris_reader.py caffemodel CORPUS -max_total_time=600 -rss_limit_mb=2048

The first argument is a reader of ``tests/fuzz/readers.py``, the second a folder for the inputs that
reach new code (made if it is missing, filled with the sound files of ``seeds.py``); the rest goes
to libFuzzer.  Anything but a result or a CaffeImportError of one printable line is written to the
working directory as ``crash-...``; an input that takes 5 seconds as ``timeout-...``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(
    include=["prototxt_import", "deeplab_repro.pictures.reading", "deeplab_repro.parity.recordings"]
):
    import prototxt_import  # noqa: F401

from google.protobuf import text_format

from tests.fuzz.readers import READERS, read
from tests.fuzz.seeds import ENDINGS, make_seeds


def main() -> None:
    kind, corpus = sys.argv[1], Path(sys.argv[2])
    if kind not in READERS:
        raise SystemExit(f"no reader '{kind}'; there are {', '.join(READERS)}")
    if kind == "prototxt":
        atheris.instrument_func(text_format.Parse)
    corpus.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    for i, seed in enumerate(make_seeds(folder)[kind]):
        (corpus / f"seed{i}").write_bytes(seed)
    path = folder / f"input{ENDINGS[kind]}"

    def one_input(data: bytes) -> None:
        path.write_bytes(data)
        read(kind, path)

    options = [sys.argv[0], str(corpus), "-timeout=5", "-max_len=65536", *sys.argv[3:]]
    atheris.Setup(options, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
