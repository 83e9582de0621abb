"""Recipes: synthetic videos, the tasks asked about them, training and evaluation, each runnable from an empty folder.

`shapes` draws and writes videos of coloured shapes, `tasks` asks about what is visible in them.
"""
