#!/bin/sh
# shellcheck disable=SC2086 # they are several
exec java $KAFKA_HEAP_OPTS -Dlog4j2.configurationFile=/opt/kafka/bin/log4j2.xml \
  -cp "/opt/kafka/libs/*" org.apache.kafka.tools.TopicCommand "$@"
