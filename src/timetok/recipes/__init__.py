"""Synthetic videos, the tasks asked about them, training and evaluation, each runnable from an empty folder."""
