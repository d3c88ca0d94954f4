//! Kafka: producer, consumer, topics.
