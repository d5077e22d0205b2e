"""What a program that submits tasks uses. `import qdistd` offers all of it by name.

    task, Executor            the two other faces: a decorator, a concurrent.futures.Executor
          │
    Client, its options()     submit, map, ask                                      the caller's threads
    Batch, Group              many tasks or none, tasks that belong together
    Handle                    one task: result, state, progress, cancel
          │
    Background                ─────────────── one thread, one event loop ──────────────────────────────
          │
    Session                   Outbox (unacknowledged) + Watchlist (unfinished) over one Link
    Connector                 the list of masters, backoff

`Session` and what stands under it know no thread, no clock and no socket of their own: all of it is handed in.
"""
