"""Schemas: records of Avro, Protobuf and JSON Schema, in Confluent's wire format, become JSON."""
