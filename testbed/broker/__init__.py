"""A real Apache Kafka, from the jars of Maven Central, for tests, benchmarks and hand use."""
