//! What a client says that nobody polls: rust-rdkafka takes an admin client's answers from a queue of their own, and leaves its
//! errors and its log in the main queue for ever.

#![expect(unsafe_code, reason = "librdkafka's main queue has no safe wrapper")]

use std::ffi::CStr;

use rdkafka::{
    ClientContext,
    bindings::{
        RD_KAFKA_EVENT_ERROR, rd_kafka_event_destroy, rd_kafka_event_error, rd_kafka_event_error_string,
        rd_kafka_event_type, rd_kafka_queue_destroy, rd_kafka_queue_get_main, rd_kafka_queue_poll,
    },
    client::Client,
    error::RDKafkaErrorCode,
};

use super::topic_id::Handle;

/// The errors since the last call, oldest first, each with librdkafka's words. Only for a client that is not polled
/// elsewhere.
pub(super) fn errors<C: ClientContext>(client: &Client<C>) -> Vec<(RDKafkaErrorCode, String)> {
    let mut errors = Vec::new();
    // SAFETY: the client is borrowed, so its pointer is valid; the reference to its queue is destroyed before the function
    // returns.
    let queue = unsafe { Handle::new(rd_kafka_queue_get_main(client.native_ptr()), rd_kafka_queue_destroy) };
    let Some(queue) = queue else { return errors };
    // SAFETY: the queue is alive; an event is this function's until it is destroyed, and null ends the loop.
    while let Some(event) = unsafe { Handle::new(rd_kafka_queue_poll(queue.pointer(), 0), rd_kafka_event_destroy) } {
        // SAFETY: the event is alive, and the text, which ends in NUL, belongs to it and is copied.
        unsafe {
            if rd_kafka_event_type(event.pointer()) == RD_KAFKA_EVENT_ERROR {
                let reason = CStr::from_ptr(rd_kafka_event_error_string(event.pointer()));
                errors.push((rd_kafka_event_error(event.pointer()).into(), reason.to_string_lossy().into_owned()));
            }
        }
    }
    errors
}
