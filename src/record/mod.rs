//! Change events to Kafka records and back, by compiled plans.
