"""Our environments, rewards and estimators in other projects' trainers: one page for each of them."""
