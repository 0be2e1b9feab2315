"""Memory that the kernel keeps for processes, read from the files of /proc."""

from __future__ import annotations

import os
import socket

from sia_runtime.sandbox import kept


def test_open_files_bound_what_sockets_hold_and_sockets_alone_are_counted_where_it_matters() -> None:
    this = [os.getpid()]
    before = kept.more_exactly(this, own_network=False)
    pair, pipe, copy = socket.socketpair(), os.pipe(), 0
    try:
        copy = os.dup(pair[0].fileno())
        after = kept.more_exactly(this, own_network=False)
        assert after - before == 2 * kept._each()
        assert kept.at_most(this, own_network=False, most_files=256) >= after
    finally:
        for end in pair:
            end.close()
        for descriptor in (*pipe, copy):
            os.close(descriptor)


def test_sockets_of_a_network_are_counted_whoever_has_them_open() -> None:
    this = [os.getpid()]
    before = kept.at_most(this, own_network=True, most_files=256)
    with socket.socket(socket.AF_INET) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        ends = [socket.create_connection(listener.getsockname()) for _ in range(4)]
        assert kept.at_most(this, own_network=True, most_files=256) > before
        assert kept.more_exactly(this, own_network=True) > 0
        for end in ends:
            end.close()


def test_a_process_that_has_ended_holds_nothing() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    for own_network in (False, True):
        assert kept.at_most([child], own_network=own_network, most_files=256) == 0
        assert kept.more_exactly([child], own_network=own_network) == 0
