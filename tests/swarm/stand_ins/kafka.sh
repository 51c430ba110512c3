#!/bin/sh
# KAFKA_A_B in the environment is a.b in the properties, as in apache/kafka.
set -eu
java() { command java -Dlog4j2.configurationFile=/opt/kafka/bin/log4j2.xml -cp "/opt/kafka/libs/*" "$@"; }
env | grep '^KAFKA_' | grep -v '^KAFKA_HEAP_OPTS=' | while IFS='=' read -r name value; do
  printf '%s=%s\n' "$(printf %s "${name#KAFKA_}" | tr 'A-Z_' 'a-z.')" "$value"
done > /tmp/server.properties
java -Xmx128m kafka.tools.StorageTool format --ignore-formatted --cluster-id="$CLUSTER_ID" -c /tmp/server.properties
# shellcheck disable=SC2086 # they are several
exec java $KAFKA_HEAP_OPTS -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dlog4j2.configurationFile=/opt/kafka/bin/log4j2.xml \
  -cp "/opt/kafka/libs/*" kafka.Kafka /tmp/server.properties
