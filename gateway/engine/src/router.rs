//! Which routes take a message, and under which routing key it leaves. Knows topics and templates, no messages that wait.
//!
//! For each upstream the first route whose filter matches takes the message: a special route written above a general
//! one replaces it, and routes to several upstreams each get their copy.

use crate::event::RouteSetup;
use crate::message::Message;
use crate::topic::Topic;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Topics whose routes are remembered. Devices publish to few topics; beyond this the memory starts anew.
const REMEMBERED_TOPICS: usize = 4_096;

/// The routes as configured, in the operator's order.
#[derive(Debug)]
pub(crate) struct Router {
    routes: Vec<RouteSetup>,
    remembered: BTreeMap<Topic, Arc<[usize]>>,
}

impl Router {
    pub(crate) fn new(routes: Vec<RouteSetup>) -> Self {
        Self { routes, remembered: BTreeMap::new() }
    }

    /// The indices of the routes that take `topic`.
    pub(crate) fn routes(&mut self, topic: &Topic) -> Arc<[usize]> {
        if let Some(known) = self.remembered.get(topic) {
            return Arc::clone(known);
        }
        let mut served = Vec::new();
        let mut taken = Vec::new();
        for (index, route) in self.routes.iter().enumerate() {
            let matches = route.filter.as_ref().is_some_and(|filter| filter.matches(topic));
            if matches && !served.contains(&route.upstream) {
                served.push(route.upstream);
                taken.push(index);
            }
        }
        let taken: Arc<[usize]> = taken.into();
        if self.remembered.len() >= REMEMBERED_TOPICS {
            self.remembered.clear();
        }
        self.remembered.insert(topic.clone(), Arc::clone(&taken));
        taken
    }

    /// One route's set-up.
    pub(crate) fn route(&self, index: usize) -> Option<&RouteSetup> {
        self.routes.get(index)
    }
}

/// The routing key of `message` under a route's template: `{device}` and `{topic}` are filled in, the topic with
/// `.` for `/`; without a template it is the topic.
pub(crate) fn routing_key(template: Option<&str>, message: &Message) -> String {
    let topic = || message.topic.as_str().replace('/', ".");
    match template {
        None => topic(),
        Some(template) => {
            let mut key = String::with_capacity(template.len() + message.topic.as_str().len());
            let mut rest = template;
            while let Some(open) = rest.find('{') {
                let (before, from) = rest.split_at(open);
                key.push_str(before);
                rest = if let Some(after) = from.strip_prefix("{device}") {
                    key.push_str(message.device.as_str());
                    after
                } else if let Some(after) = from.strip_prefix("{topic}") {
                    key.push_str(&topic());
                    after
                } else {
                    key.push('{');
                    &from[1..]
                };
            }
            key.push_str(rest);
            key
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Router, routing_key};
    use crate::event::{Durability, Policy, RouteSetup, Senml};
    use crate::id::{DeviceId, LaneId, MessageId, Seq, UpstreamId};
    use crate::message::{Message, Qos, Source};
    use crate::time::Stamp;
    use crate::topic::{Filter, Topic};
    use bytes::Bytes;

    fn route(filter: &str, upstream: u16) -> RouteSetup {
        RouteSetup {
            lane: LaneId(0),
            name: filter.into(),
            filter: Some(Filter::new(filter).unwrap()),
            upstream: UpstreamId(upstream),
            routing_key: None,
            durability: Durability::Disk,
            priority: 5,
            senml: Senml::Untouched,
            packing: None,
            policy: Policy::default(),
            salvaged: false,
        }
    }

    #[test]
    fn the_first_matching_route_of_each_upstream_takes_a_message() {
        let mut router = Router::new(vec![route("a/+", 0), route("#", 1), route("#", 0)]);
        let taken = |router: &mut Router, topic: &str| router.routes(&Topic::new(topic).unwrap()).to_vec();
        assert_eq!(taken(&mut router, "a/b"), [0, 1]);
        assert_eq!(taken(&mut router, "a/b/c"), [1, 2]);
        assert_eq!(taken(&mut router, "$SYS/x"), [0; 0]);
        assert_eq!(taken(&mut router, "a/b"), [0, 1], "remembered");
    }

    #[test]
    fn a_routing_key_is_the_topic_with_dots_or_the_template_filled_in() {
        let message = Message {
            id: MessageId { epoch: 1, seq: Seq(1) },
            device: DeviceId::new("boiler-3").unwrap(),
            topic: Topic::new("sensors/boiler-3/temperature").unwrap(),
            payload: Bytes::new(),
            received: Stamp::default(),
            qos: Qos::AtLeastOnce,
            retain: false,
            duplicate: false,
            source: Source::Mqtt,
            properties: None,
        };
        assert_eq!(routing_key(None, &message), "sensors.boiler-3.temperature");
        assert_eq!(routing_key(Some("{device}.t"), &message), "boiler-3.t");
        assert_eq!(
            routing_key(Some("x.{topic}.{{device}"), &message),
            "x.sensors.boiler-3.temperature.{boiler-3"
        );
    }
}
