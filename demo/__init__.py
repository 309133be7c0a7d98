"""The embedded demo: what it is learnt from and what learns it."""
