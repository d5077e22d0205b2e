"""Squares ten numbers that a master hands out. Knows nothing of qdist.

    python task_worker.py [PORT [AUTHKEY]]        else $PORT and $AUTHKEY, else 5000 and abc

The worker of the tutorial, in our words. $PONDER has it wait for a line on standard input before it gives a result.
"""

import os
import queue
import sys
from multiprocessing.managers import BaseManager

TASKS = 10
PATIENCE = 30.0


class QueueManager(BaseManager):
    pass


def main(port="", authkey=""):
    QueueManager.register("get_task_queue")
    QueueManager.register("get_result_queue")
    print("Connect to server 127.0.0.1...", flush=True)
    port = port or os.environ.get("PORT", "5000")
    authkey = authkey or os.environ.get("AUTHKEY", "abc")
    manager = QueueManager(address=("127.0.0.1", int(port)), authkey=authkey.encode())
    manager.connect()
    tasks, results = manager.get_task_queue(), manager.get_result_queue()
    for _ in range(TASKS):
        try:
            n = tasks.get(timeout=PATIENCE)
        except queue.Empty:
            print("task queue is empty.", flush=True)
            continue
        print(f"run task {n} * {n}...", flush=True)
        if os.environ.get("PONDER"):
            sys.stdin.readline()
        results.put(f"{n} * {n} = {n * n}")
    print("worker exit.")


if __name__ == "__main__":
    main(*sys.argv[1:])
