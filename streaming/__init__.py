"""Impressions on the wire: schema, codec, topics, log readers and writers, Kafka, the market."""
