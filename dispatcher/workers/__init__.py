"""Several processes that are one replica: a parent that starts and watches them, and answers for all."""
