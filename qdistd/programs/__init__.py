"""`qdist-master` and `qdist-worker`: command line, configuration, and the parts put together.

    master: config ──> store, keyring, network, commits ──> Master ─┐
    worker: config ──> key, spool, pool, network        ──> Worker ─┴─as a Service──> daemon.run

This is the only place that picks real clocks, real randomness and real sockets for the parts below.
"""
