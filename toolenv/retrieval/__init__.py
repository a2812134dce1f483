"""Retrieval: passages, encoders and search indexes."""
