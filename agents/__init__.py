"""Who learns: samplers, rollouts, credit for each turn, and trainers that read top to bottom."""
