//! Requests that find out what the key may do, and delete nothing.

use std::net::SocketAddr;

use reqwest::header::CONTENT_TYPE;
use uuid::Uuid;

use super::{
    Api, Body, MAX_ANSWER_BYTES, Page, Reply, answer,
    listing::{MAX_PAGE_BYTES, parse_page},
    unbuilt,
};
use crate::model::{deletion::AgentId, outcome::Answer};

/// The reply to such a request, and who gave it.
#[derive(Clone, Debug)]
pub struct Trial<T> {
    /// The reply.
    pub reply: Reply<T>,
    /// The address that answered: the proxy's, if requests go through one. `None` without an answer.
    pub peer: Option<SocketAddr>,
}

impl Api {
    /// Lists one entry of the agent's cache.
    pub async fn try_read(&self, agent: &AgentId, correlation_id: Uuid) -> Trial<Page> {
        let request = self.client().await.get(format!("{}?limit=1&offset=0", self.cache_url(agent)));
        let (reply, peer) = self.exchange(request, correlation_id, MAX_PAGE_BYTES, parse_page).await;
        Trial { reply, peer }
    }

    /// Sends a bulk delete without any ID. The contract answers it with 400 if the key may write, and with 401 or 403 if not.
    pub async fn try_write(&self, agent: &AgentId, correlation_id: Uuid) -> Trial<Answer> {
        let Ok(body) = serde_json::to_vec(&Body { ids: Vec::new() }) else {
            return Trial { reply: unbuilt(), peer: None };
        };
        let request = self.client().await.post(self.url(agent)).header(CONTENT_TYPE, "application/json").body(body);
        let (reply, peer) = self.exchange(request, correlation_id, MAX_ANSWER_BYTES, answer::parse_lists).await;
        Trial { reply, peer }
    }
}
