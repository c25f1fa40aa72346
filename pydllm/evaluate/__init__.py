"""Accuracy against speed: problem suites over grids of decoding settings, on a local model or a server."""
