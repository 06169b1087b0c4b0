"""The native kernel: C++ sources, and the extension module that they compile to.

Import what it offers through ``perslm._backend``, which chooses between it and numpy.
"""
