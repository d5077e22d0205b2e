"""The child: a process that runs one task after another, and knows no network.

    pool                                                                   child
      tasks    ──[head│name│details│payload] [head│name│details│payload]…────>  reads ahead
      tickets  ──[ticket] [ticket] …─────────────────────────────────────────>  takes one, then runs that task
      results  <─[length│ticket│outcome│started│wall│cpu│rss│value]──────────   one write per task, at once
      board    <─ how far the task is, in shared memory ─────────────────────  whenever it says so
      SIGTERM  ── the task that runs is to end, see `child.stage` ───────────>
      life     ── nothing, ever: when the worker is gone, the kernel kills the whole process group ──

Who has a ticket has the task. The pool keeps the reading end of `tickets` too: what it takes out of there is taken
back, at once and for certain, even from a child that is stuck in C code; the child skips tasks whose ticket it never
sees. When a child dies, the tickets still in the pipe and the results in the other one say which task it ran.
"""
