"""Turns records with Avro, Protobuf or JSON Schema values, in Confluent's wire format, into JSON."""
