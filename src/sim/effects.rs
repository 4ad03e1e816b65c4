//! What a node wants of the world, done.

use std::time::Duration;

use super::{
    forgery,
    host::Carried,
    node::Effect,
    world::{Delivery, World},
};
use crate::node::edges::Request;

impl World {
    pub(super) fn take_effect(&mut self, index: usize, effect: Effect) {
        match effect {
            Effect::Send(frame) => {
                let frames = forgery::frames(&self.machines[index], frame);
                frames.into_iter().for_each(|frame| self.send(index, frame));
            }
            Effect::Publish { topic, bytes } => {
                let beside = forgery::beside(&self.machines[index], &bytes);
                self.publish(index, topic.clone(), bytes);
                beside.into_iter().for_each(|bytes| self.publish(index, topic.clone(), bytes));
            }
            Effect::Forward { id } => self.forward(index, &id),
            Effect::Subscribed { topic } => self.on_subscribed(index, &topic),
            Effect::Dial(address) => self.dial(index, &address),
            Effect::Edge { id, request } => {
                let at = self.now + duration_of(&request) + self.disk(index);
                self.reach(index, at, Delivery::Edge { id, request });
            }
            Effect::ShardEdge(request) => {
                let at = self.now + DISK + self.disk(index);
                self.reach(index, at, Delivery::ShardEdge { id: request.id, work: request.work });
            }
            Effect::Script(request) => {
                let now = self.now;
                if let Some(node) = &mut self.machines[index].node {
                    node.scripts.perform(request, now);
                }
            }
            Effect::Submit { id, message, durable } => {
                let machine = &mut self.machines[index];
                if let Some(node) = &mut machine.node {
                    node.client.submit(&mut machine.journal, id, message, durable);
                }
            }
            Effect::FindProviders(root) => self.find_providers(index, root),
            Effect::Provide(root) => {
                let known = self.providers.entry(root).or_default();
                if !known.contains(&index) {
                    known.push(index);
                }
            }
            Effect::Reply { id, result } => {
                self.replies.insert(id, *result);
            }
            Effect::Notify(event) => self.on_event(index, &event),
            Effect::Exit => self.on_exit(index),
        }
    }

    /// What a slow disk adds.
    fn disk(&self, index: usize) -> Duration {
        Duration::from_millis(self.machines[index].disk_millis)
    }

    /// Why a command was refused, in words.
    pub(super) fn answer(&self, command: u64) -> String {
        match self.replies.get(&command) {
            Some(Err(error)) => error.message.clone(),
            _ => "no answer".to_owned(),
        }
    }

    /// What a frame weighs.
    pub(super) fn count(&mut self, carried: &Carried) {
        self.counts.messages += 1;
        self.counts.bytes += carried.length() as u64;
    }
}

/// A look at the disk.
const DISK: Duration = Duration::from_millis(1);

/// How long a piece of work takes: what a small model takes in production.
fn duration_of(request: &Request) -> Duration {
    Duration::from_millis(match request {
        Request::Recovery(_) => 8,
        Request::Round(_) | Request::Proof(_) => 5,
        _ => 1,
    })
}
