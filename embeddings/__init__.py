"""Embedding tables and their sharding, vocabularies of unbounded ids, historical embeddings."""
