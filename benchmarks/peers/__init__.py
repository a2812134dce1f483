"""The same work beside other projects: ``python -m benchmarks.peers``.

Each peer is installed into an environment of its own (``catalogue.json`` pins it and says what it cannot do). A work
is played by a small script a peer, ``play_<peer>.py``, which runs in that peer's interpreter, reads a job as JSON and
prints what it measured as JSON; ``works.py`` is what the scripts share. Round after round every player runs in turn,
so that what disturbs one disturbs all. A ratio is the peer's time over ours in the same round.

``python -m benchmarks.peers.table`` prints the table of the README, from ``benchmarks/results/peers.json``.
"""
