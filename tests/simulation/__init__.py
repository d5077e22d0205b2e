"""A whole cluster on one thread and one virtual clock: same seed, same history."""
