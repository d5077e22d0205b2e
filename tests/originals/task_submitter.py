"""What task_master.py does, with queues that somebody else owns: it connects instead of starting.

    python task_submitter.py [PORT [AUTHKEY [STEP]]]        else $PORT and $AUTHKEY, else 5000 and abc

STEP is "put" or "get" for half of it: put and leave, or collect what a former run has put.
"""

import os
import random
import sys
from multiprocessing.managers import BaseManager

TASKS = 10
PATIENCE = 30.0


class QueueManager(BaseManager):
    pass


def main(port="", authkey="", step=""):
    QueueManager.register("get_task_queue")
    QueueManager.register("get_result_queue")
    port = port or os.environ.get("PORT", "5000")
    authkey = authkey or os.environ.get("AUTHKEY", "abc")
    manager = QueueManager(address=("127.0.0.1", int(port)), authkey=authkey.encode())
    manager.connect()
    if step != "get":
        tasks = manager.get_task_queue()
        for _ in range(TASKS):
            n = random.randint(0, 10000)
            print(f"Put task {n}...", flush=True)
            tasks.put(n)
    if step != "put":
        results = manager.get_result_queue()
        print("Try get results...", flush=True)
        for _ in range(TASKS):
            print(f"Result: {results.get(timeout=PATIENCE)}", flush=True)
    print("master exit.")


if __name__ == "__main__":
    main(*sys.argv[1:])
