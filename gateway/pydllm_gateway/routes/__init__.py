"""One module per group of paths; each offers `router`."""
