"""The person's tool: the `qdist` command.

    argv ─> door.main ─> app.qdist (names only) ──loads the one module that is asked for──> submit · results · tasks …
              │                                                                                │
              │                                          context.connected ─> Client ─> master │
              └── exit code, one line on stderr <── whatever was raised ───────────────────────┘
                                                            output: text for people, JSON lines for programs

A command module imports at its top only what `qdist --help` may pay for. Exit codes are in `exits`, how a line of
text becomes a value is in `words`. What ends a command is told by `door` alone; what is wrong with one task or one
line of many is told where it is found, and the command goes on.
"""
