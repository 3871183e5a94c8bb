"""Apache Kafka as the log: the same lane, readers and clients as on the embedded one."""
