"""Annotation files, the tasks made of them, the feature cache, training, evaluation, search, rewards."""
