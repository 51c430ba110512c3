"""The only room that imports confluent_kafka."""
