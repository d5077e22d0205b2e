"""Figures, printed as they are measured beside a reference. No test fails because a machine is slow."""
