# Stands in for apache/kafka where no image can be pulled; takes the same environment.
FROM dispatcher-trial/base
RUN apt-get update && apt-get install --yes --no-install-recommends openjdk-17-jre-headless && rm -rf /var/lib/apt/lists/*
COPY libs /opt/kafka/libs
COPY kafka.sh kafka-topics.sh log4j2.xml /opt/kafka/bin/
RUN chmod +x /opt/kafka/bin/*.sh && useradd --uid 1000 appuser && install -d -o appuser /var/lib/kafka/data
USER appuser
VOLUME /var/lib/kafka/data
CMD ["/opt/kafka/bin/kafka.sh"]
