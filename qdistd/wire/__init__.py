"""What travels between processes, and who is allowed to speak. Nothing outside this package opens a socket.

socket ── network ──► channel ── frames ──► handshake ── keyring        who are you?
                         │
          ┌──────────────┼───────────────────┐
        server          link               stock
    Peer and Gate    our client        client of a plain BaseManager server
          │
        plain        the only thing that reads a pickle, and it is no unpickler
"""
