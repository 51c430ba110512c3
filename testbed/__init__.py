"""What tests and benchmarks both stand on: a real Kafka, replicas as processes, clients, certificates."""
