//! Topic ids: what tells a topic from another one of its name that was created after the first was deleted (KIP-516).
//!
//! rust-rdkafka has no call for them, so this file speaks to librdkafka itself. Every object
//! that librdkafka hands out is in a [`Handle`] from the line on that receives it, so no path leaves one behind.

#![expect(unsafe_code, reason = "librdkafka's DescribeTopics has no safe wrapper")]

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, c_char, c_int},
    ptr::{self, NonNull},
    slice,
    time::Duration,
};

use rdkafka::{
    ClientContext,
    bindings::{
        rd_kafka_AdminOptions_destroy, rd_kafka_AdminOptions_new, rd_kafka_AdminOptions_set_request_timeout,
        rd_kafka_DescribeTopics, rd_kafka_DescribeTopics_result_topics, rd_kafka_TopicCollection_destroy,
        rd_kafka_TopicCollection_of_topic_names, rd_kafka_TopicDescription_error, rd_kafka_TopicDescription_name,
        rd_kafka_TopicDescription_t, rd_kafka_TopicDescription_topic_id, rd_kafka_Uuid_base64str,
        rd_kafka_Uuid_least_significant_bits, rd_kafka_Uuid_most_significant_bits, rd_kafka_admin_op_t,
        rd_kafka_error_code, rd_kafka_event_DescribeTopics_result, rd_kafka_event_destroy, rd_kafka_event_error,
        rd_kafka_event_t, rd_kafka_queue_destroy, rd_kafka_queue_new, rd_kafka_queue_poll,
    },
    client::Client,
    error::RDKafkaErrorCode,
    types::RDKafkaRespErr,
};

/// How much longer the answer is waited for than librdkafka waits for the broker.
const GRACE: Duration = Duration::from_secs(1);

/// Why ids cannot be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The topic at fault; `None`: the request as a whole.
    pub(super) topic: Option<String>,
    /// The broker's or librdkafka's code.
    pub(super) code: RDKafkaErrorCode,
}

impl From<RDKafkaErrorCode> for Refusal {
    fn from(code: RDKafkaErrorCode) -> Self {
        Self { topic: None, code }
    }
}

/// The ids (base64) of those of the topics that exist; `None` where the broker gives none. Blocks up to `timeout`, and a
/// second more.
pub(super) fn read<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<BTreeMap<String, Option<String>>, Refusal> {
    if topics.is_empty() {
        return Ok(BTreeMap::new());
    }
    let event = describe(client, topics, timeout)?;
    // SAFETY: the event is alive until the end of this function, and the result is used no longer.
    let result = unsafe { rd_kafka_event_DescribeTopics_result(event.pointer()) };
    if result.is_null() {
        return Err(RDKafkaErrorCode::BadMessage.into());
    }
    let mut count = 0;
    // SAFETY: the result is not null and belongs to the living event; `count` is written before the call returns.
    let descriptions = unsafe { rd_kafka_DescribeTopics_result_topics(result, &raw mut count) };
    if descriptions.is_null() || count == 0 {
        return Ok(BTreeMap::new());
    }
    // SAFETY: librdkafka tells that `count` pointers are there; they belong to the event and nobody writes to them.
    let descriptions = unsafe { slice::from_raw_parts(descriptions, count) };
    let mut ids = BTreeMap::new();
    for description in descriptions {
        // SAFETY: the pointers of a result are valid while its event is alive.
        let (name, code, id) = unsafe { fields(*description) };
        match code {
            RDKafkaErrorCode::NoError => drop(ids.insert(name, id)),
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {}
            code => return Err(Refusal { topic: Some(name), code }),
        }
    }
    Ok(ids)
}

/// Asks the brokers; the answer, if it is none of an error as a whole.
fn describe<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<Handle<rd_kafka_event_t>, Refusal> {
    let texts: Vec<CString> = topics
        .iter()
        .map(|topic| CString::new(*topic))
        .collect::<Result<_, _>>()
        .map_err(|_| RDKafkaErrorCode::InvalidTopic)?;
    let mut names: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();
    let milliseconds = |time: Duration| c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX);
    let native = client.native_ptr();
    let none = RDKafkaErrorCode::Fail;
    // SAFETY: `client` is borrowed for the whole function, so its pointer is valid in all calls, and every object that is
    // made of it is destroyed before the function returns, but for the event, which does not refer to it. Texts and list
    // live longer than the collection, which copies them. No pointer is null where that is not allowed: `Handle` is never.
    unsafe {
        let collection = rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let collection = Handle::new(collection, rd_kafka_TopicCollection_destroy).ok_or(none)?;
        let options = rd_kafka_AdminOptions_new(native, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        let options = Handle::new(options, rd_kafka_AdminOptions_destroy).ok_or(none)?;
        let request = milliseconds(timeout);
        let set = rd_kafka_AdminOptions_set_request_timeout(options.pointer(), request, ptr::null_mut(), 0);
        refuse(set)?;
        let queue = Handle::new(rd_kafka_queue_new(native), rd_kafka_queue_destroy).ok_or(none)?;
        rd_kafka_DescribeTopics(native, collection.pointer(), options.pointer(), queue.pointer());
        let event = rd_kafka_queue_poll(queue.pointer(), milliseconds(timeout + GRACE));
        let event = Handle::new(event, rd_kafka_event_destroy).ok_or(RDKafkaErrorCode::OperationTimedOut)?;
        refuse(rd_kafka_event_error(event.pointer()))?;
        Ok(event)
    }
}

/// Name, error and id of one topic.
///
/// # Safety
/// The description must belong to an event that is alive during the call.
unsafe fn fields(description: *const rd_kafka_TopicDescription_t) -> (String, RDKafkaErrorCode, Option<String>) {
    // SAFETY: the caller's promise makes the description valid, and with it name, error and id, which belong to it. A null
    // error has the code of no error. The texts end in NUL, and are copied before the call returns.
    unsafe {
        let name = CStr::from_ptr(rd_kafka_TopicDescription_name(description)).to_string_lossy().into_owned();
        let code = rd_kafka_error_code(rd_kafka_TopicDescription_error(description)).into();
        let id = rd_kafka_TopicDescription_topic_id(description);
        let zero = id.is_null()
            || rd_kafka_Uuid_least_significant_bits(id) == 0 && rd_kafka_Uuid_most_significant_bits(id) == 0;
        let text = || CStr::from_ptr(rd_kafka_Uuid_base64str(id)).to_string_lossy().into_owned();
        (name, code, (!zero).then(text))
    }
}

fn refuse(code: RDKafkaRespErr) -> Result<(), RDKafkaErrorCode> {
    match code.into() {
        RDKafkaErrorCode::NoError => Ok(()),
        code => Err(code),
    }
}

/// An object of librdkafka that is ours to destroy.
pub(super) struct Handle<T> {
    pointer: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Handle<T> {
    /// Takes an object over; `None` for null.
    ///
    /// # Safety
    /// Nobody else destroys the object, and `destroy` is the function that does.
    pub(super) unsafe fn new(pointer: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        NonNull::new(pointer).map(|pointer| Self { pointer, destroy })
    }

    /// The object, which lives as long as this.
    pub(super) fn pointer(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        // SAFETY: the constructor's promise: the object is alive, and this is the only call that destroys it.
        unsafe { (self.destroy)(self.pointer.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::{ClientConfig, admin::AdminClient, client::DefaultClientContext};

    use super::*;

    fn nowhere() -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", "127.0.0.1:1").set("log_level", "0").create().unwrap()
    }

    #[test]
    fn a_broker_that_does_not_answer_is_waited_for_no_longer_than_told() {
        let refused = read(nowhere().inner(), &["t"], Duration::from_millis(100)).unwrap_err();
        assert_eq!(refused.topic, None);
        assert!(
            matches!(refused.code, RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::BrokerTransportFailure),
            "{refused:?}"
        );
    }

    #[test]
    fn a_name_that_no_topic_can_have_is_refused_before_anybody_is_asked() {
        let refused = read(nowhere().inner(), &["a\0b"], Duration::from_mins(1)).unwrap_err();
        assert_eq!(refused.code, RDKafkaErrorCode::InvalidTopic);
        assert_eq!(read(nowhere().inner(), &[], Duration::from_mins(1)), Ok(BTreeMap::new()));
    }
}
