"""Every setting that the version before had, in its files. Frozen: never to be changed. KEY stands for a key file."""

MASTER = """
[master]
listen = ["127.0.0.1:5000"]
store = "sqlite:///var/lib/qdist/qdist.db"
[keys]
admin = ["KEY"]
work = ["KEY"]
submit = ["KEY"]
weak = false
min_digest = "md5"
[limits]
payload = "64 KiB"
result = "1 MiB"
lease = "30s"
heartbeat = "5s"
handshake = "5s"
connections = 10000
unauthenticated = 1000
[retention]
finished = "60d"
[compat]
queue = "default"
task = "square"
[tasks]
crashes = 3
losses = 10
[log]
level = "info"
"""

WORKER = """
[worker]
masters = ["127.0.0.1:5000"]
queues = ["default", "other"]
key = "KEY"
weak = false
processes = 0
tasks = ["qdistd.tasks"]
path = []
state = "/var/lib/qdist/worker"
protocol = "qdist"
drain = "30s"
[compat]
task = "square"
[limits]
timeout = "1h"
memory = ""
result = "1 MiB"
[log]
level = "info"
"""

CLIENT = """
[client]
masters = ["127.0.0.1:5000"]
key = "KEY"
weak = false
timeout = "30s"
"""
