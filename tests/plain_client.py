"""What a plain client of every CPython does to a server of ours, as the text of its script."""

PLAIN_CLIENT = """
import queue, sys, time
from multiprocessing.managers import BaseManager, RemoteError

class QueueManager(BaseManager): pass

QueueManager.register("get_task_queue")
start = time.monotonic()
manager = QueueManager(("127.0.0.1", int(sys.argv[1])), authkey=b"k" * 32)
manager.connect()
tasks = manager.get_task_queue()
for value in (None, True, 7, -2**31, 10**40, 1.5, "text", b"bytes", [1, [2]], (1, (2,)), {"a": {1: 2}}, {1, 2},
              frozenset([3]), 2 + 3j, "x" * 60000, b"x" * 60000, list(range(2000)), {n: str(n) for n in range(2000)}):
    tasks.put(value)
    found = tasks.get()
    assert (found, type(found)) == (value, type(value)), value
spent = time.monotonic() - start

def raises(kind, call, *args):
    try:
        call(*args)
    except kind as error:
        return str(error)
    raise AssertionError("nothing was raised")

raises(queue.Empty, tasks.get)
raises(queue.Full, tasks._callmethod, "full")
assert "there is no method" in raises(RemoteError, tasks._callmethod, "shutdown")
assert "'fractions.Fraction' is not plain data" in raises(RemoteError, tasks.put, __import__("fractions").Fraction(1))
assert "over the limit" in raises(RemoteError, tasks.put, "x" * 3000000)
tasks.put("still here")
assert tasks.get() == "still here"
assert spent < 2, spent      # 44 ms for each connection and large message, had the server not acknowledged at once
"""
