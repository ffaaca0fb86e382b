//! An act that a command is doing, over one transaction or more. The engines write it.

use crate::model::{
    act::{ActKind, Draft},
    deletion::AgentId,
    outcome::Scope,
};

/// An act that a command is doing.
#[derive(Clone, Debug)]
pub(super) struct Doing {
    pub(super) draft: Draft,
    /// Its row, once there is one.
    id: Option<i64>,
    /// Rows that were changed before there was a row of `acts`.
    before: u64,
    /// No fewer rows are worth a row of `acts`.
    least: u64,
}

impl Doing {
    pub(super) fn new(draft: Draft, least: u64) -> Self {
        Self { draft, id: None, before: 0, least }
    }

    /// The same act, which now concerns these agents as well.
    pub(super) fn about<'a>(mut self, mut agents: impl Iterator<Item = &'a AgentId>) -> Self {
        let is_first = self.id.is_none() && self.before == 0;
        let first = agents.next();
        let only = first.filter(|first| agents.all(|agent| agent == *first)).cloned().map(Scope::Agent);
        if is_first {
            self.draft.scope = only;
        } else if self.draft.scope != only {
            self.draft.scope = None;
        }
        self
    }

    /// Whether the act is a single transaction.
    pub(super) fn is_one_step(&self) -> bool {
        matches!(self.draft.kind, ActKind::Hold | ActKind::Release)
    }

    /// Its row, once there is one.
    pub(super) fn id(&self) -> Option<i64> {
        self.id
    }

    /// The number of rows with which its row begins, now that `rows` more were changed; `None` if there are too few for a row.
    pub(super) fn begins_with(&self, rows: u64) -> Option<u64> {
        let all = self.before + rows;
        (rows > 0 && (self.id.is_some() || all >= self.least)).then_some(all)
    }

    /// The same act, after `rows` more rows were changed without a row of `acts`.
    pub(super) fn unwritten(&self, rows: u64) -> Self {
        Self { before: self.before + rows, ..self.clone() }
    }

    /// The same act, with this row.
    pub(super) fn written(&self, id: i64) -> Self {
        Self { id: Some(id), before: 0, ..self.clone() }
    }
}
