"""The server of the original script: two queues behind a BaseManager. Arguments: port, key."""

import queue
import sys
from multiprocessing.managers import BaseManager

task_queue: "queue.Queue[object]" = queue.Queue()
result_queue: "queue.Queue[object]" = queue.Queue()


class QueueManager(BaseManager):
    pass


QueueManager.register("get_task_queue", callable=lambda: task_queue)
QueueManager.register("get_result_queue", callable=lambda: result_queue)

if __name__ == "__main__":
    manager = QueueManager(address=("127.0.0.1", int(sys.argv[1])), authkey=sys.argv[2].encode())
    server = manager.get_server()
    print("ready", flush=True)
    server.serve_forever()
