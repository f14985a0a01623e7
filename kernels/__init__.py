"""Triton kernels, one file a mechanism; this file decides where they run."""
