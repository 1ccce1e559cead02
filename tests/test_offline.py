"""No test reaches beyond this machine, nor does a program or a kernel that one starts."""

import socket
import subprocess
import sys

import course

PROBE = course.PROBE.replace("BARE", "False")


def test_connections_are_refused_in_this_process(capsys):
    exec(PROBE, {})
    assert "attempts refused" in capsys.readouterr().out


def test_connections_are_refused_in_a_program_that_a_test_starts():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert "attempts refused" in done.stdout


def test_this_machine_may_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5) as client:
        assert client.getpeername() == server.getsockname()
