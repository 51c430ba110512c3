"""Trials that take minutes: what the whole-topic streams and partitions that follow subscribers promise, judged."""
