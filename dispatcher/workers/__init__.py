"""Several processes on one port: workers, and a parent that starts and watches them and answers for all."""
