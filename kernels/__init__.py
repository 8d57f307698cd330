"""Compiled and GPU kernels: leaves that take plain arrays and know nothing of qlab. Installed as `qlab.kernels`.

This file imports nothing. From the repository root the folder is also found as `kernels`, the name of a package that
transformers probes for; an import here would fail under that name, and transformers with it.
"""
