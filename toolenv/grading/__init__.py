"""Graders: whether an answer or a call is right."""
