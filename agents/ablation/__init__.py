"""Ablations: the same training under several settings and seeds, side by side, and what tells them apart.

``plan`` reads what is to be run, ``cell`` makes one run of it, ``side_by_side`` makes them all, ``compare`` and
``page`` say what they came to. ``toolenv ablate`` is the command.
"""
