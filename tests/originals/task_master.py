"""Hands out ten random numbers and prints what comes back. Knows nothing of qdist.

    python task_master.py [PORT [AUTHKEY]]        else $PORT and $AUTHKEY, else 5000 and abc

The master of the well-known tutorial on `multiprocessing.managers`, in our words: it owns both queues, starts their
manager, puts, collects, ends. Runs on any CPython from 3.8 on.
"""

import os
import queue
import random
import sys
from multiprocessing.managers import BaseManager

TASKS = 10
PATIENCE = 30.0

task_queue = queue.Queue()
result_queue = queue.Queue()


class QueueManager(BaseManager):
    pass


def give_task_queue():
    return task_queue


def give_result_queue():
    return result_queue


def main(port="", authkey=""):
    QueueManager.register("get_task_queue", callable=give_task_queue)
    QueueManager.register("get_result_queue", callable=give_result_queue)
    port = port or os.environ.get("PORT", "5000")
    authkey = authkey or os.environ.get("AUTHKEY", "abc")
    manager = QueueManager(address=("127.0.0.1", int(port)), authkey=authkey.encode())
    manager.start()
    tasks, results = manager.get_task_queue(), manager.get_result_queue()
    for _ in range(TASKS):
        n = random.randint(0, 10000)
        print(f"Put task {n}...", flush=True)
        tasks.put(n)
    print("Try get results...", flush=True)
    for _ in range(TASKS):
        print(f"Result: {results.get(timeout=PATIENCE)}", flush=True)
    manager.shutdown()
    print("master exit.")


if __name__ == "__main__":
    main(*sys.argv[1:])
