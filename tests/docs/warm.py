"""The program `deeplab-repro`, started many times for the price of once.

Most of a short command's time goes into importing torch.  A server imports it, and is copied by
fork for every command; the program in the PATH is then a client that hands over its arguments,
folder, variables, and the three streams, and ends with the exit code.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["warm_program"]

_CLIENT = """#!{python} -IS
import json, os, socket, sys
if sys.argv[1:2] == ["crf-tune"]:  # Ctrl-C has to reach what serves
    os.execv(sys.executable, [sys.executable, "-m", "deeplab_repro", *sys.argv[1:]])
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"."], [0, 1, 2])
    server.sendall(request)
    server.shutdown(socket.SHUT_WR)
    code = server.recv(16)
sys.exit(int(code) if code else "the program has crashed")
"""


@contextmanager
def warm_program(folder: Path) -> Iterator[Path]:
    """Start the server.

    Args:
        folder: for the client and the socket.

    Yields:
        The folder with the program, for the PATH.
    """
    address = folder / "socket"
    program = folder / "bin" / "deeplab-repro"
    program.parent.mkdir()
    program.write_text(_CLIENT.format(python=sys.executable, address=str(address)))
    program.chmod(0o755)
    words = [sys.executable, "-m", __name__, str(address)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        words, cwd=root, stdout=subprocess.PIPE, start_new_session=True
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        try:
            yield program.parent
        finally:
            os.killpg(server.pid, signal.SIGTERM)  # with commands that are still running


def _serve(address: str) -> None:
    # What the commands import when they begin; nothing of it starts a thread.
    import matplotlib.figure  # noqa: F401
    import torch  # noqa: F401

    import deeplab_repro.inference.segmentation
    import deeplab_repro.train.solver  # noqa: F401
    from deeplab_repro.cli import main

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no child is waited for
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                os._exit(_serve_one(connection, main))
            connection.close()


def _serve_one(connection: socket.socket, main: object) -> int:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    arguments, folder, variables = json.loads(connection.makefile("rb").read())
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = ["deeplab-repro", *arguments]
    code = 0
    try:
        main()  # type: ignore[operator]
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()  # what a program does that ends by itself: os._exit would leave it out
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(str(code).encode())
    return code


if __name__ == "__main__":
    _serve(sys.argv[1])
